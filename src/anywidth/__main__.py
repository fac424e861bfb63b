"""`python -m anywidth` is `anywidth`; `torchrun --nproc-per-node 2 -m anywidth train RECIPE` trains in two processes."""

from anywidth.cli import app

if __name__ == "__main__":
    app(prog_name="anywidth")
