import pytest
import torch

from anywidth.errors import RecipeError
from anywidth.train import labels, next_wider, targets, widest
from anywidth.train.targets import Context, label_loss
from taught_logits import LABELS, OTHER, STUDENT, TEACHER, soft


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (labels(), label_loss(STUDENT, LABELS)),
        (widest(), soft(STUDENT, TEACHER)),
        (next_wider(), soft(STUDENT, OTHER)),
    ],
)
def test_who_teaches(target, expected):
    context = Context(seen=[TEACHER, OTHER])
    torch.testing.assert_close(target(STUDENT, LABELS, context), expected)
    torch.testing.assert_close(target(STUDENT, LABELS, Context()), label_loss(STUDENT, LABELS))


def test_label_smoothing_over_the_others():
    k, eps = 4, 0.1
    q = torch.full((5, k), eps / (k - 1), dtype=torch.float64)
    q[torch.arange(5), LABELS] = 1 - eps
    expected = -(q * STUDENT.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(label_loss(STUDENT, LABELS, smoothing=eps, over="others"), expected)


def test_mixed_labels_are_taken_as_they_are():
    mixed = torch.full((5, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(label_loss(STUDENT, mixed), -STUDENT.log_softmax(1).mean(1).mean())


def test_a_recipe_names_a_target_of_ours_or_of_the_user():
    made = targets.make_target("user_code:weighted", smoothing=0.1, over="all", options={"weight": 2.0})
    torch.testing.assert_close(
        made(STUDENT, LABELS, Context()), 2 * label_loss(STUDENT, LABELS, smoothing=0.1)
    )
    with pytest.raises(RecipeError, match="unknown target 'wides'; did you mean 'widest'"):
        targets.make_target("wides", smoothing=0.0, over="all", options={})
    with pytest.raises(RecipeError, match="unknown option of the target 'alpha'"):
        targets.make_target("alpha", smoothing=0.0, over="all", options={"clips": 3})


def test_an_option_that_is_no_number_is_refused():
    with pytest.raises(RecipeError, match=r"'clip'.*is a number, like 5.0; got 'a'"):
        targets.make_target("alpha", smoothing=0.0, over="all", options={"clip": "a"})


def test_a_target_declares_what_it_needs():
    needs = {
        name: targets.make_target(name, smoothing=0.0, over="all", options={}) for name in targets.TARGETS
    }
    assert [n for n, t in needs.items() if t.descending] == ["next_wider"]
    assert [n for n, t in needs.items() if t.needs_teacher] == ["ema", "ema_ensemble"]
    assert [n for n, t in needs.items() if t.redraws] == ["ema_ensemble"]
    assert targets.make_target("user_code:taught", smoothing=0.0, over="all", options={}).needs_teacher
