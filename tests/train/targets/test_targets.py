import pytest
import torch

from anywidth.errors import RecipeError
from anywidth.train import alpha, ema, ema_ensemble, labels, next_wider, targets, widest
from anywidth.train.targets import Context, label_loss
from anywidth.train.targets.alpha import adaptive_divergence

GENERATOR = torch.Generator().manual_seed(0)
TEACHER, STUDENT, OTHER = torch.randn(3, 5, 4, dtype=torch.float64, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 3, 0])


def soft(student, teacher):
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()


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


def test_the_moving_average_teaches():
    context = Context(seen=[OTHER], teacher=lambda: TEACHER)
    torch.testing.assert_close(ema()(STUDENT, LABELS, context), soft(STUDENT, TEACHER))


def test_an_ensemble_of_the_moving_average_teaches_the_narrowest():
    logits = {None: TEACHER, 3: OTHER, "b": STUDENT.flip(0)}
    context = Context(seen=[OTHER], teacher=lambda width=None: logits[width], redrawn=(3, "b"))
    torch.testing.assert_close(ema_ensemble()(STUDENT, LABELS, context), soft(STUDENT, TEACHER))
    context.narrowest = True
    mean = sum(t.softmax(1) for t in logits.values()) / 3
    expected = -(mean * STUDENT.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ema_ensemble()(STUDENT, LABELS, context), expected)
    torch.testing.assert_close(
        ema_ensemble(smoothing=0.2)(STUDENT, LABELS, Context(narrowest=True)),
        label_loss(STUDENT, LABELS, smoothing=0.2),
    )


def divergence(p, q, a):
    """D_alpha(p || q) of arXiv 2102.07954, equation 4."""
    if a == 1:
        return (p * (p / q).log()).sum(1)
    if a == 0:
        return (q * (q / p).log()).sum(1)
    return ((q * (p / q) ** a).sum(1) - 1) / (a * (a - 1))


@pytest.mark.parametrize("pair", [(-1.0, 1.0), (-0.5, 2.0), (0.0, 0.5)])
def test_without_clipping_it_is_the_larger_divergence_and_its_gradient(pair):
    low, high = pair
    expected_logits = STUDENT.clone().requires_grad_()
    p, q = TEACHER.softmax(1), expected_logits.softmax(1)
    expected = torch.maximum(divergence(p, q, low), divergence(p, q, high)).mean()
    expected.backward()
    logits = STUDENT.clone().requires_grad_()
    got = adaptive_divergence(logits, TEACHER, minimum=low, maximum=high, clip=1e9)
    got.backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(logits.grad, expected_logits.grad)


def test_clipping_bounds_the_gradient_where_the_student_is_sure():
    sure = torch.tensor([[30.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 30.0, 0.0]], dtype=torch.float64)
    sizes = []
    for clip in (5.0, 1e9):
        logits = sure.clone().requires_grad_()
        adaptive_divergence(logits, teacher, minimum=-1.0, maximum=1.0, clip=clip).backward()
        assert logits.grad.isfinite().all()
        sizes.append(logits.grad.abs().max().item())
    assert sizes[0] <= 5 < sizes[1] or sizes[0] < sizes[1]


def test_the_widest_learns_from_labels_under_alpha():
    torch.testing.assert_close(
        alpha(smoothing=0.1)(STUDENT, LABELS, Context()), label_loss(STUDENT, LABELS, smoothing=0.1)
    )


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


def test_properties_as_attributes_of_a_function_are_refused():
    with pytest.raises(
        TypeError, match=r"attribute 'teacher'; declare it .*Target\(loss=..., needs_teacher=True\)"
    ):
        targets.make_target("user_code:marked", smoothing=0.0, over="all", options={})
