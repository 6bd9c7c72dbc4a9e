import json

import pytest

from brainfeat.exceptions import InputError
from brainfeat.subjects.bids.description import check_description, describe_derivatives


def test_a_folder_is_free_or_of_the_same_dataset(tmp_path):
    path = tmp_path / "dataset_description.json"
    check_description(tmp_path, "ours")
    path.write_text(json.dumps(describe_derivatives("ours")))
    check_description(tmp_path, "ours")
    for text in (json.dumps(describe_derivatives("theirs")), "{}", "[]", "cut sh"):
        path.write_text(text)
        with pytest.raises(InputError, match=f"^{tmp_path}: holds another dataset"):
            check_description(tmp_path, "ours")
