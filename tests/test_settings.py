import inspect
from dataclasses import dataclass, field

import pytest

from anywidth.settings import configured, takes_fields_of


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 3
    names: tuple[str, ...] = field(default_factory=tuple)


@takes_fields_of(Config)
def run(net, config=None, *, budget=None, **settings):
    return configured(Config, config, settings)


def test_settings_are_given_one_by_one_or_as_a_config():
    assert run(None) == Config()
    assert run(None, steps=5) == Config(steps=5)
    assert run(None, Config(steps=7)) == Config(steps=7)
    assert run(None, Config(steps=7, names=("a",)), steps=8) == Config(steps=8, names=("a",))


@pytest.mark.parametrize("config", [None, Config()])
def test_an_unknown_setting_is_refused(config):
    with pytest.raises(TypeError, match="stepz"):
        run(None, config, stepz=3)


def test_the_signature_shows_every_field():
    parameters = inspect.signature(run).parameters
    assert list(parameters) == ["net", "config", "budget", "steps", "names"]
    assert parameters["steps"].default == 3
    assert parameters["names"].default == ()
    assert parameters["steps"].kind is inspect.Parameter.KEYWORD_ONLY


def test_further_options_of_another_name_stay():
    @takes_fields_of(Config)
    def build(**options):
        return options

    assert list(inspect.signature(build).parameters) == ["steps", "names", "options"]


def test_another_kind_of_config_is_refused():
    for other in ({"steps": 3}, "macs", object()):
        with pytest.raises(TypeError, match="expected a Config, got"):
            run(None, other)
