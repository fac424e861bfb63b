"""Settings for folders of small images."""

from anywidth.data import Augment, DataConfig

NOISE = Augment(area=0.3, flip=0.5, jitter=0.4)


def config_of(folder, **values) -> DataConfig:
    return DataConfig(
        **{
            "name": "folder",
            "root": str(folder),
            "batch_size": 8,
            "image_size": 8,
            "augment": NOISE,
            **values,
        }
    )
