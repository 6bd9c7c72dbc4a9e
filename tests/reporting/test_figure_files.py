from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread

from brainfeat.display.png_file import png_size
from brainfeat.exceptions import MissingDependencyError
from brainfeat.reporting.figure_files import check_can_draw, write_figures
from brainfeat.reporting.figures import legend_html, scatter_svg
from brainfeat.reporting.volume_histogram import volume_histogram_svg


@pytest.fixture
def body(rng):
    """Two figures, with a legend and a brain between them."""
    labels = ["a", "b", "c"] * 4
    scatter = scatter_svg(rng.normal(size=(12, 2)), labels, labels, ("x & y", "z"))
    volumes = rng.normal(1400, 90, 40)
    brain = '<svg viewBox="0 0 1 1" role="img" aria-label="b"><image/></svg>'
    return scatter + brain + volume_histogram_svg(volumes, volumes > 1450)


def test_figures_are_written_as_svg_and_png(body, tmp_path):
    files = write_figures(body, tmp_path / "figures")
    assert [path.name for path in files] == [
        "01-12-points-z-over-x-y.svg",
        "02-Histogram-of-the-volumes-of-brains.svg",
    ]
    for path in files:
        root = ET.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("width") == "3.500in"
        content = path.with_suffix(".png").read_bytes()
        assert png_size(content)[0] == 1050
        assert len(content) > 5000


def test_legend_of_the_caption_is_drawn_below(tmp_path, rng):
    labels = [f"site <{i}>" for i in range(9)]
    svg = scatter_svg(rng.normal(size=(9, 2)), labels, labels, ("x", "y"))
    caption = f"<figcaption>site: {legend_html(labels)}</figcaption>"
    (path,) = write_figures(f"<figure>{svg}{caption}</figure>", tmp_path)
    root = ET.parse(path).getroot()
    texts = [text.text for text in root.iter() if text.tag.endswith("}text")]
    assert texts == ["x", "y", *labels]
    height = float(root.get("viewBox").split()[3])
    assert height > float(svg.split('viewBox="')[1].split('"')[0].split()[3]) + 40
    lowest = max(float(text.get("y", 0)) for text in root.iter())
    assert lowest < height


def test_png_has_the_colours_of_the_svg(tmp_path):
    svg = (
        '<svg viewBox="0 0 100 50" role="img" aria-label="one">'
        '<rect x="10" y="10" width="20" height="30" fill="#0072b2"/>'
        '<path d="M60 10h20v30h-20z" fill="#d55e00"/></svg>'
    )
    (path,) = write_figures(svg, tmp_path)
    pixels = imread(path.with_suffix(".png"))[..., :3]
    height, width = pixels.shape[:2]
    at = {
        name: pixels[height // 2, int(width * x)]
        for name, x in {"rect": 0.2, "path": 0.7, "none": 0.45}.items()
    }
    np.testing.assert_allclose(at["rect"], [0, 0x72 / 255, 0xB2 / 255], atol=0.01)
    np.testing.assert_allclose(at["path"], [0xD5 / 255, 0x5E / 255, 0], atol=0.01)
    np.testing.assert_allclose(at["none"], 1.0)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"brainfeat\[plotting\]"):
        check_can_draw()
