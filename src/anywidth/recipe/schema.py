"""The schema of a recipe: its sections, and what must hold between them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from anywidth.cost.budget import parse
from anywidth.data import DataConfig
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.gating import GateMethod, Hard
from anywidth.prune import CRITERIA
from anywidth.search import Acquisition, Sampling
from anywidth.train import Draw, FitConfig, policies
from anywidth.train.policies import declared

Ratio = Annotated[float, Field(gt=0, le=1, strict=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Label = int | float | str
RATIOS, LABELS, _FILE = (
    "list of ratios",
    "labels",
    "file of a front",
)  # what `listed` may be: only one is checked
_RATIO, _LIST, _GROUPS = "ratio", "channels", "groups"  # and what a label may stand for


def is_a(mapping: str, sequence: str, fallback: str) -> Discriminator:
    # pydantic tries one branch, so that a wrong entry gives one message and not one for each branch.
    return Discriminator(
        lambda value: (
            mapping if isinstance(value, dict) else sequence if isinstance(value, list | tuple) else fallback
        )
    )


_COUNT, _SHARE = "number", "share"
BRANCHES = (RATIOS, LABELS, _FILE, _RATIO, _LIST, _GROUPS, _COUNT, _SHARE)
"""Parts of an error's place that are no keys."""
Amount = Annotated[
    Annotated[Count, Tag(_COUNT)] | Annotated[Ratio, Tag(_SHARE)],
    Discriminator(lambda value: _SHARE if isinstance(value, float) else _COUNT),
]
Listed = Annotated[
    Annotated[Ratio, Tag(_RATIO)]
    | Annotated[tuple[Count, ...], Tag(_LIST)]
    | Annotated[dict[str, Amount], Tag(_GROUPS)],
    is_a(_GROUPS, _LIST, _RATIO),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSection(Section):
    """Which network: a class of `anywidth.models`, "torchvision:NAME" or "timm:NAME".

    Weights start fresh, or from the file `weights`: an ordinary checkpoint of this model, whose important channels
    `sort` brings to the front. `pruned` names a folder that `anywidth prune` wrote: the network is the compact one there,
    with its weights, or with fresh ones if it is trained from scratch: for as many epochs ("epochs") or for as many
    multiply-adds as the wide network ("compute").
    """

    name: str
    kwargs: dict[str, Any] = {}
    weights: str | None = None
    sort: bool = True
    pruned: str | None = None
    scratch: Literal["no", "epochs", "compute"] = "no"

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSection":
        if self.pruned is not None and self.weights is not None:
            raise ValueError(
                "model.pruned and model.weights both say where the weights come from: set one of them"
            )
        if self.pruned is None and self.scratch != "no":
            raise ValueError(
                f"model.scratch = {self.scratch!r} trains a pruned architecture: set model.pruned to its folder"
            )
        return self


class PruneSection(Section):
    """What `anywidth prune` does with a run of this recipe; with `passes`, `anywidth train` does it itself.

    The keys up to `empty` are those of `anywidth.prune.planned`. `fold` makes up for the shifts of removed channels,
    `calibrate` collects batch-norm statistics anew.

    `passes` is how often the trained network is pruned and trained again, in folders pass-1, pass-2, ... of the run, for
    `epochs` at learning rate `lr` (by default those of `train`). The sparsity of `train` acts in all passes but the last, or
    with `sparse: false` before the first alone.
    """

    ratio: float | None = Field(default=None, gt=0, lt=1)
    budget: str | None = None
    criterion: str = "bn_scale"
    rule: Literal["network-slimming", "torch7"] | None = None
    scope: Literal["global", "layer", "isomorphic"] = "global"
    streams: Literal["coupled", "selection"] = "coupled"
    max_per_layer: Ratio = 1.0
    minimum: int = Field(default=1, ge=1)
    round_to: int = Field(default=1, ge=1)
    empty: Literal["keep", "remove", "error"] = "keep"
    fold: bool = True
    calibrate: bool = False
    passes: int = Field(default=0, ge=0)
    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    sparse: bool = True

    @field_validator("criterion")
    @classmethod
    def _known_criterion(cls, name: str) -> str:
        if ":" not in name and name not in CRITERIA:
            raise PydanticCustomError(
                "criterion",
                "Input should be one of {names}, or 'package.module:function'",
                {"names": ", ".join(CRITERIA)},
            )
        return name

    @model_validator(mode="after")
    def _says_how_much(self) -> "PruneSection":
        if self.ratio is None and self.budget is None:
            raise ValueError(
                "prune says not how much: set prune.ratio, like 0.5, or prune.budget, like 'macs=50%'"
            )
        if self.budget is not None:
            share = self.budget.strip().endswith("%")
            # A share of a latency is one of a measured latency, which there is none of yet; everything else is checked before a
            # run begins.
            if not (self.budget.startswith("latency=") and share):
                try:
                    limits = parse(self.budget, lambda kind: 1.0).limits
                except WidthError as error:
                    raise ValueError(str(error)) from error
                if len(limits) != 1:
                    raise ValueError(
                        f"prune.budget = {self.budget!r} names {len(limits)} limits; give one, like macs=50%"
                    )
            if self.passes > 1 and not share:
                raise ValueError(
                    f"prune.budget = {self.budget!r} is the same in each of {self.passes} passes; give a share, like macs=50%"
                )
        return self


class ElasticSection(Section):
    """Arguments of `Elastic`: norm policy, rounding of channel numbers, name patterns of what stays full.

    `divisor` and `minimum` are numbers of channels, or group name or glob pattern -> number. `join` makes one channel group
    of several of one size: new name -> glob pattern of their names; `anywidth profile` shows those that there are.
    """

    norm: Literal["shared", "switchable", "frozen"] = "shared"
    divisor: Count | dict[str, Count] = 1
    minimum: Count | dict[str, Count] = 1
    freeze: tuple[str, ...] = ()
    join: dict[str, str] = {}


class WidthsSection(Section):
    """Which widths are trained, and which are listed: calibrated, evaluated and saved at the end.

    Listed are ratios; or label -> ratio, channels of every group in the order of `anywidth profile`, or group
    name or pattern -> channels (a whole number) or share; or the file of a Pareto front that `anywidth search` wrote.

    The policy "listed" trains every listed width at each step, "listed_sandwich" the widest and the narrowest of them and
    `random` others, "sandwich" `max`, `min` and `random` ratios between them, "random" `max` and `random` ratios,
    "min_max" only these two, "progressive" a sandwich whose narrow end falls during the training; "joslim" searches them meanwhile (section `joslim`); "package.module:function" is your own.
    Random ratios lie on a `grid`, or are drawn for each channel group (`per_group`); `options` are further arguments of the policy.
    """

    listed: Annotated[
        Annotated[tuple[Ratio, ...], Tag(RATIOS)]
        | Annotated[dict[Label, Listed], Tag(LABELS)]
        | Annotated[str, Tag(_FILE)],
        is_a(LABELS, RATIOS, _FILE),
    ]
    policy: str = "sandwich"
    min: Ratio = 0.25
    max: Ratio = 1.0
    random: int = Field(default=2, ge=0)
    grid: Ratio | None = None
    per_group: bool = False
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ordered(self) -> "WidthsSection":
        if not self.listed:
            raise ValueError("widths.listed is empty: name at least one width")
        if self.min >= self.max:
            raise ValueError(f"expected min < max, got min={self.min}, max={self.max}")
        return self

    def draw(self, net: Elastic) -> Draw:
        """The policy over the listed widths and the channel space of a network.

        Raises:
            RecipeError: unknown policy or option.
            WidthError: impossible widths, or ratios that a label of another width hides.
        """
        return policies.make_draw(
            self.policy, net, low=self.min, high=self.max, random=self.random, grid=self.grid, per_group=self.per_group, options=self.options
        )  # fmt: skip


class JoslimSection(Section):
    """The width policy "joslim": widths that are searched while they are trained (arXiv 2007.11752).

    Every `tau` steps `num_sampled_arch` widths are proposed, and trained between the widest and the narrowest (ratio
    `lower_channel`, by default `widths.min`; proposed ratios end at `upper_channel`). The first `prior_points` are spread over
    the range; then a model of the losses decides, with the settings of `anywidth.search.Bayes`; `baseline` is its `reference`.
    It learns from the losses of at most `history` widths on `images` held-out training images, in batches of `batch_size`,
    measured anew each time.

    The mode "slim" draws random widths instead, with a ratio for every channel group; "pool" draws from the file `pool`: a front,
    or a sample pool of the published code.
    """

    mode: Literal["joint", "slim", "pool"] = "joint"
    pool: str | None = None
    tau: int = Field(default=235, ge=1)
    num_sampled_arch: int = Field(default=2, ge=1)
    prior_points: int = Field(default=20, ge=1)
    lower_channel: Ratio | None = None
    upper_channel: Ratio = 1.0
    baseline: float = Field(default=-3.0, allow_inf_nan=False)
    beta: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    acquisition: Acquisition = "optimistic"
    sampling: Sampling = "uniform"
    ard: bool = True
    cost: Literal["macs", "params"] = "macs"
    history: int = Field(default=100, ge=4)
    images: int = Field(default=256, ge=2)
    batch_size: int = Field(default=128, ge=2)

    @model_validator(mode="after")
    def _pool_is_a_mode(self) -> "JoslimSection":
        if (self.mode == "pool") != (self.pool is not None):
            raise ValueError(
                f"joslim.mode = {self.mode!r} and joslim.pool = {self.pool!r}: the mode 'pool', and no other, names a file"
            )
        return self


class GatePlace(Section):
    """Where a gate is: after the module `at`; it reads the output of the module `feature`, by default that of `at`."""

    at: str
    feature: str | None = None


class GateSection(Section):
    """What `anywidth gate` does with a run of this recipe: gates that choose one of `widths` for each image.

    `widths` are labels or ratios, the narrowest first, that differ after the first gate only. `target` is the mean cost to
    meet: a share of the widest of them, like "60%", or multiply-adds, like "0.33G". Gates learn from the training `images`, or, as
    networks are right too often on images that they were trained with, from three quarters of those held out. The other keys are those of
    `anywidth.gating.GateConfig`.
    """

    places: tuple[GatePlace, ...] = Field(min_length=1)
    widths: tuple[Label, ...] = Field(min_length=2)
    target: str | None = None
    images: Literal["train", "held_out"] = "train"
    method: GateMethod = "expected"
    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=0.08, gt=0)
    momentum: float = Field(default=0.9, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    sparsify: float | None = Field(default=None, ge=0)
    cost: float | None = Field(default=None, ge=0)
    entropy: float = Field(default=0.1, ge=0)
    hard: Hard = "widest"
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    double_softmax: bool = False
    temperature: float = Field(default=1.0, gt=0)


class CalibrationSection(Section):
    """Batches of training images from which the statistics of each width are taken."""

    batches: int = Field(default=8, ge=1)


class Recipe(Section):
    """Everything that fixes a run.

    `device` is "auto" (a GPU where there is one), "cpu" or "cuda"; `threads` is the number of CPU threads,
    null for torch's own choice.
    """

    model: ModelSection
    elastic: ElasticSection = ElasticSection()
    data: DataConfig
    widths: WidthsSection
    train: FitConfig
    calibration: CalibrationSection = CalibrationSection()
    prune: PruneSection | None = None
    joslim: JoslimSection | None = None
    gate: GateSection | None = None
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _switchable_widths_are_listed(self) -> "Recipe":
        if self.elastic.norm == "switchable" and declared(self.widths.policy).draws_unlisted:
            raise ValueError(
                "elastic.norm = 'switchable' keeps a batch norm for each listed width only: expected "
                f"widths.policy = 'listed' or 'listed_sandwich', got {self.widths.policy!r}; a policy of your own declares draws_unlisted=False"
            )
        return self

    @model_validator(mode="after")
    def _joined_groups_are_not_pruned(self) -> "Recipe":
        if self.elastic.join and (self.prune is not None or self.model.pruned is not None):
            raise ValueError(
                "elastic.join makes one number of several layers, and pruning chooses the channels of each: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _pruned_norms_are_shared(self) -> "Recipe":
        if self.prune is not None and self.prune.passes and self.elastic.norm == "switchable":
            raise ValueError(
                "prune.passes chooses channels, and elastic.norm = 'switchable' owns norms for given ones: use 'shared'"
            )
        return self

    @model_validator(mode="after")
    def _joslim_fits(self) -> "Recipe":
        searches = declared(self.widths.policy).searches
        if searches and self.joslim is None:
            raise ValueError(
                f"widths.policy = {self.widths.policy!r}: a policy that searches takes a section joslim"
            )
        if self.joslim is not None and not searches:
            raise ValueError(
                f"widths.policy = {self.widths.policy!r}: only a policy that searches, like 'joslim', takes a section joslim"
            )
        if self.joslim is None:
            return self
        # A key that has no effect is refused: a recipe says what was done.
        unknown = ("max", "grid", "per_group") + (
            ("options",) if self.widths.policy in policies.POLICIES else ()
        )
        for name in unknown:
            if getattr(self.widths, name) != WidthsSection.model_fields[name].default:
                raise ValueError(
                    f"widths.{name} = {getattr(self.widths, name)!r}: the policy {self.widths.policy!r} does not know it; its ratios lie between "
                    "joslim.lower_channel and joslim.upper_channel; leave it out"
                )
        if self.narrowest >= self.joslim.upper_channel:
            raise ValueError(
                f"joslim: expected lower_channel < upper_channel, got {self.narrowest:g} and {self.joslim.upper_channel:g}"
            )
        if self.joslim.mode == "joint" and self.data.held_out < self.joslim.images:
            raise ValueError(
                f"joslim measures widths on {self.joslim.images} held-out training images: set data.held_out to as many or more "
                f"(now {self.data.held_out}), or lower joslim.images"
            )
        if self.train.compile:
            raise ValueError(
                "train.compile = true compiles a graph for every width, and joslim trains ever new ones"
            )
        return self

    @property
    def narrowest(self) -> float:
        """Ratio of the narrowest width that is trained."""
        return self.joslim.lower_channel or self.widths.min if self.joslim else self.widths.min

    @model_validator(mode="after")
    def _compiled_widths_are_few(self) -> "Recipe":
        # A grid of 0.05 from 0.25 to 1 means 16 graphs at most; without one, every step would compile new ones.
        drawn = declared(self.widths.policy).draws_random and self.widths.random > 0
        if self.train.compile and drawn and (self.widths.grid is None or self.widths.per_group):
            raise ValueError(
                "train.compile = true compiles a graph for every width: expected a grid of uniform ratios "
                "(widths.grid = 0.05, widths.per_group = false), or a policy without random widths"
            )
        return self
