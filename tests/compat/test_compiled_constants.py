import torch

from anywidth.compat.compiled_constants import assume_constant_result


def test_it_marks_a_function_as_torch_does():
    def f():
        return 1

    def g():
        return 1

    torch.compiler.assume_constant_result(f)
    assume_constant_result(g)
    assert vars(f) == vars(g)


def test_a_graph_takes_the_result_as_a_constant():
    calls = []

    @assume_constant_result
    def scale():
        calls.append(1)
        return 2 + len(calls)

    compiled = torch.compile(lambda x: x * scale(), backend="eager", fullgraph=True)
    assert compiled(torch.ones(1)).item() == 3
    assert compiled(torch.ones(1)).item() == 3  # the graph holds the number
    assert len(calls) == 1
