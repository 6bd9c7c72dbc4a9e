import numpy as np

from brainfeat.preprocessing.preview import _encode
from brainfeat.tables.previews import PreviewFolder

PNG = _encode(np.zeros((4, 6), np.uint8), '{"modalities": ["T1w"], "overlap": 0.5}')
HASHES = [f"{number:02x}" * 32 for number in range(5)]


def test_pictures_are_kept_and_read(tmp_path):
    folder = PreviewFolder.beside(tmp_path / "emb.parquet")
    assert folder.load(HASHES[0]) is None
    folder.save(HASHES[0], PNG)
    assert folder.load(HASHES[0]).png == PNG
    parts = folder.path(HASHES[0]).relative_to(tmp_path).parts
    assert parts[0] == "emb.parquet.previews"
    folder.path(HASHES[0]).write_bytes(PNG[:-9])  # damaged: drawn again
    assert folder.load(HASHES[0]) is None
    assert folder.load(None) is None
    folder.clear()
    folder.clear()
    assert not folder.folder.exists()


def test_merging_takes_the_pictures_of_the_kept_rows(tmp_path):
    parts = [PreviewFolder.beside(tmp_path / f"{name}.csv") for name in "ab"]
    for number, digest in enumerate(HASHES):
        parts[number % 2].save(digest, PNG)
    whole = PreviewFolder.beside(tmp_path / "all.csv")
    whole.take(parts[0], [HASHES[0], HASHES[2], None])
    whole.take(parts[1], [HASHES[1], "f" * 64])
    whole.take(parts[1], [HASHES[1]])  # again
    whole.take(PreviewFolder.beside(tmp_path / "none.csv"), HASHES)
    kept = sorted(path.name[:2] for path in whole.folder.rglob("*.png"))
    assert kept == ["00", "01", "02"]
    parts[0].path(HASHES[0]).unlink()
    assert whole.load(HASHES[0]).png == PNG


def test_a_full_disk_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "emb.csv.previews").write_text("a file in the way")
    folder = PreviewFolder.beside(tmp_path / "emb.csv")
    folder.save(HASHES[0], PNG)
    assert "a preview was not kept" in caplog.text
    assert folder.load(HASHES[0]) is None
