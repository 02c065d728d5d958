"""How a step is run: op by op, with fused parts, compiled, or captured as one CUDA graph."""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.training.data import DeviceData
from pipeline.training.precision import resolve_precision
from pipeline.training.recipe import Recipe
from pipeline.training.step import TrainStep
from pipeline.training.structure import Structure

Engine = Literal["eager", "fused", "captured", "compiled"]

Run = Callable[[], None]
"""One update."""
Note = Callable[[str], None]

WARM_UPS = 3
"""Updates before a capture: libraries allocate and choose in the first ones."""
MAX_STEPS = 4
MAX_GRAPHS = 1_000


def resolve_engine(setting: Literal["auto"] | Engine, device: torch.device) -> Engine:
    """What `training.engine` means on a device, before anything was measured."""
    if setting != "auto":
        return setting
    return "captured" if device.type == "cuda" else "eager"


class Steps:
    """The steps of one process: each is built once, and serves every training of its structure.

    A step holds a net, the optimizer's state and, captured, its activations; so only the
    `MAX_STEPS` that were used last are kept.

    Args:
        data: the images, on the device.
        engine: how steps are run; what can't be had falls back to the next best, with one note.
        note: takes a line for the people who watch.

    Attributes:
        num_built: how many steps were built so far.
    """

    def __init__(
        self, data: DeviceData, engine: Engine = "eager", note: Note = lambda _: None
    ) -> None:
        self.data, self.engine, self.note = data, engine, note
        self.num_built = 0
        self._steps: OrderedDict[Hashable, tuple[TrainStep, Run]] = OrderedDict()

    def get(
        self, architecture: Hashable, model: nn.Module, recipe: Recipe, structure: Structure
    ) -> tuple[TrainStep, Run]:
        """The step for a training, holding the model's weights, and how it is run.

        Args:
            architecture: what tells the model from others that can't share its step.
            model: with the training's first weights, which are copied.
        """
        dtype = resolve_precision(recipe.training.precision, self.data.mean.device)
        key = (architecture, structure, dtype, recipe.training.batch_size)
        if key not in self._steps:
            while len(self._steps) >= MAX_STEPS:
                self._steps.popitem(last=False)
            built = self._built_if_it_fits(model, recipe, structure, dtype)
            if built is None:  # the others' graphs keep their memory
                self.let_go()
                built = self._build(model, recipe, structure, dtype)
            self._steps[key] = built
            self.num_built += 1
        self._steps.move_to_end(key)
        step, run = self._steps[key]
        step.model.load_state_dict(model.state_dict())
        return step, run

    def let_go(self) -> None:
        """Drop all steps, with the memory that they keep on the device."""
        self._steps.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _built_if_it_fits(
        self, model: nn.Module, recipe: Recipe, structure: Structure, dtype: torch.dtype
    ) -> tuple[TrainStep, Run] | None:
        """None when memory runs out: by then nothing holds the step that didn't fit, as the error
        that tells of it would."""
        try:
            return self._build(model, recipe, structure, dtype)
        except torch.OutOfMemoryError:
            return None

    def _build(
        self, model: nn.Module, recipe: Recipe, structure: Structure, dtype: torch.dtype
    ) -> tuple[TrainStep, Run]:
        def build(engine: Engine) -> tuple[TrainStep, Run]:
            own = deepcopy(model)  # warm-ups change it
            step = TrainStep(own, self.data, recipe, structure, dtype)
            return step, run_by(step, engine)

        while self.engine != "eager":
            try:
                return build(self.engine)
            except torch.OutOfMemoryError:
                raise  # it says nothing about the engine
            except RuntimeError as error:  # torch's, of the compiler or the CUDA graph
                reason = first_line(error)
                self._steps.clear()  # a capture that failed leaves others' chance in it
                next_best = self._next_best()
                how = "runs op by op" if next_best == "eager" else f"is {next_best} instead"
                self.note(f"the training step can't be {self.engine} here, and {how}: {reason}")
                self.engine = next_best
        return build("eager")

    def _next_best(self) -> Engine:
        """What is left where this engine can't be had: a GPU's graphs need no compiler."""
        on_gpu = self.data.mean.device.type == "cuda"
        return "captured" if on_gpu and self.engine != "captured" else "eager"


def run_by(step: TrainStep, engine: Engine) -> Run:
    """One update of a step by an engine; the step's model and state are changed on the way.

    Compiled steps are captured too where there is a GPU. Where there is none they are run once: it
    is the first run that tells of a compiler that fails.

    Raises:
        RuntimeError: the step can't be run so here.
    """
    if engine == "eager":
        return step
    if engine == "fused":
        step.fuse()
        return step
    if engine == "compiled":
        torch._dynamo.config.recompile_limit = MAX_GRAPHS  # beyond it, a trial would fail
        step.compile()
    with _compiler_quiet():
        if step.device.type == "cuda":
            return capture(step)
        if engine == "captured":
            raise RuntimeError("there are CUDA graphs on CUDA devices alone")
        _rehearse(step)
    return step


@contextmanager
def _compiler_quiet() -> Iterator[None]:
    """The compiler warns of its own choices (how it splits a softmax, that float32 is not
    TensorFloat32), about which nobody who searches can do anything."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._inductor")
        yield


def capture(step: TrainStep) -> Run:
    """A step as one CUDA graph: an update is then one launch, however many kernels it has.

    The default generator of the device, from which dropout draws, advances with each replay and can
    be reseeded between two. All else that changes is at the same addresses for good.

    Raises:
        RuntimeError: the step does something that can't be captured, such as wait for the device.
    """
    return captured(step, step.device, rehearse=lambda: _rehearse(step))


def captured(work: Run, device: torch.device, rehearse: Run | None = None) -> Run:
    """Work on a CUDA device as one graph, after it was done a few times.

    Args:
        work: what it makes and keeps for itself lives as long as what is returned.
        rehearse: how it is done before the capture, if not as itself.

    Raises:
        RuntimeError: it can't be captured.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                (rehearse or work)()
        before.wait_stream(aside)
        try:
            # On a stream of its own: graphs that share one share cuBLAS's workspace, too.
            with torch.cuda.graph(graph, stream=aside):
                work()
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # torch 2.11 stays on the capture's when its end fails
            # torch 2.10 leaves the generator in a capture that has failed: give it a new state.
            stream = torch.cuda.default_generators[torch.cuda.current_device()]
            stream.graphsafe_set_state(torch.Generator(device).graphsafe_get_state())
            if isinstance(error.__context__, RuntimeError):  # what ended the capture, not its end
                raise error.__context__ from None
            raise
    return _Replay(graph, work)


@dataclass(frozen=True)
class _Replay:
    """A graph, with what it was captured from: it knows addresses alone."""

    graph: torch.cuda.CUDAGraph
    work: Run

    def __call__(self) -> None:
        self.graph.replay()


def first_line(error: Exception) -> str:
    """The line of an error that tells; of the compiler's, which wrap one, the wrapped one's."""
    cause = getattr(error, "inner_exception", error)
    return next(iter(str(cause).splitlines()), type(cause).__name__)


def _rehearse(step: TrainStep) -> None:
    """One update on whatever the tables hold."""
    step.model.train()
    step.rewind()
    step()
