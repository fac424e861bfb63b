import pytest

from image_folders import config_of


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: expected at least 1"),
        ({"root": None}, "root = None: expected the folder of the data set"),
        ({"name": "digits"}, "expected no root"),
        ({"crop_share": 2.0}, "crop_share = 2.0"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        config_of("x", **values)
