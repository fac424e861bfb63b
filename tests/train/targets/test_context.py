import pytest

from anywidth.train import targets
from anywidth.train.targets.context import Context, Target, as_target


def test_properties_as_attributes_of_a_function_are_refused():
    with pytest.raises(
        TypeError, match=r"attribute 'teacher'; declare it .*Target\(loss=..., needs_teacher=True\)"
    ):
        targets.make_target("user_code:marked", smoothing=0.0, over="all", options={})


def test_a_plain_function_needs_nothing_of_a_step():
    target = as_target(lambda logits, labels, context: logits + labels + len(context.seen))
    assert not any((target.descending, target.needs_teacher, target.redraws))
    assert target(1, 2, Context(seen=[None])) == 4
    declared = Target(loss=target.loss, redraws=True)
    assert as_target(declared) is declared


def test_contexts_share_nothing():
    first = Context()
    first.seen.append(1)
    assert Context().seen == []
