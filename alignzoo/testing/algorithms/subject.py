"""What the kit checks of an algorithm: its class, its options, and the scenes it plays in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignzoo.errors import AlignzooError, ConfigError
from alignzoo.plugin_loader import one_line
from alignzoo.plugin_registry import Entry
from alignzoo.testing.checks import NotApplicable
from alignzoo.testing.records import PluginSubject

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm, Needs
    from alignzoo.testing.algorithms.runs import Runs
    from alignzoo.testing.algorithms.scenes import Prepared, Scene


class AlgorithmSubject(PluginSubject):
    """An algorithm under check. Everything it is given is small and made here, from fixed seeds."""

    @property
    def needs(self) -> Needs:
        """What it needs with the options it is checked with."""
        needs: Needs = self.make().needs
        return needs

    @property
    def samples(self) -> bool:
        """Whether it learns from responses that the policy wrote."""
        return self.needs.source == "rollouts"

    def make_with(self, **wishes: Any) -> Algorithm:
        """Returns one with those of `wishes` that it has an option for and that are in its range.

        So a check asks for what suits it, such as no KL penalty, and takes what it gets.
        """
        allowed = dict(wishes)
        for name, value in wishes.items():
            try:
                self.config(**{name: value})
            except ConfigError:
                del allowed[name]
        try:
            algorithm: Algorithm = self.make(**allowed)
        except ConfigError:  # each alone is allowed, not all together
            algorithm = self.make()
        return algorithm

    def scene(self, **setting: Any) -> Scene:
        """Returns a fresh scene, always the same one; see `Scene`.

        Raises:
            NotApplicable: not even an ordinary update runs, which is one failure and not twenty.
        """
        if self.first_error is not None:
            raise NotApplicable(f"no update runs: {self.first_error} (see needs_are_complete)")
        return self.new_scene(**setting)

    def new_scene(self, algorithm: Algorithm | None = None, **setting: Any) -> Scene:
        """Returns a fresh scene, whether or not an update runs in it."""
        from alignzoo.testing.algorithms.scenes import Scene

        return Scene(algorithm or self.make_with(learning_rate=1e-2), **setting)

    @cached_property
    def first_error(self) -> str | None:
        """What an ordinary update raised, in one line; None where it runs."""
        try:
            self.new_scene().play()
        except Exception as error:
            return str(error) if isinstance(error, AlignzooError) else one_line(error)
        return None

    @cached_property
    def prepared(self) -> Prepared:
        """What its `prepare` writes into the first rollout."""
        from alignzoo.testing.algorithms.scenes import prepared

        return prepared(self.scene())

    @cached_property
    def runs(self) -> Runs:
        """Short runs of the real trainer, made once for all checks that look at them."""
        from alignzoo.testing.algorithms.runs import Runs

        if self.first_error is not None:
            raise NotApplicable(f"no update runs: {self.first_error} (see needs_are_complete)")
        return Runs(self)


def make_subject(entry: Entry, options: Mapping[str, Any] | None = None) -> AlgorithmSubject:
    """Returns what the checks of an algorithm are made on.

    Args:
        options: of the algorithm; required ones that are not given come from its first example.
    """
    return AlgorithmSubject(entry, options)


def only_rollouts(subject: AlgorithmSubject) -> None:
    """Ends a check of what only algorithms that sample can do."""
    if not subject.samples:
        raise NotApplicable(f"it learns from {subject.needs.source}, not from rewards")
