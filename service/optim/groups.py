"""Groups: hyperparameters that override the specification's for the parameters whose names match a pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from service.errors import Invalid
from service.optim.specification import Specification, filled
from service.optim.tensors import Layout

Members = tuple[tuple[Specification, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Group:
    """What is different for the parameters whose names match; `frozen` (None: not said) keeps them as they are."""

    match: str
    overrides: Mapping[str, Any]
    frozen: bool | None = None

    def matches(self, name: str) -> bool:
        """Whether the pattern, as in a shell and case-sensitive, matches the name."""
        return fnmatchcase(name, self.match)

    def as_json(self) -> dict[str, Any]:
        """The group as a client may post it again."""
        said = {} if self.frozen is None else {"frozen": self.frozen}
        return {"match": self.match, **said, **self.overrides}


def parse_groups(groups: Any) -> tuple[Group, ...]:
    """`[{"match": pattern, "frozen": bool, **overrides}]`; raises Invalid with a pointer."""
    if not isinstance(groups, list):
        raise Invalid('groups must be a list of {"match": pattern, ...}.', pointer="")
    parsed = []
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or not isinstance(group.get("match"), str):
            raise Invalid('A group is {"match": pattern, ...} with hyperparameters to override.', pointer=f"/{i}")
        frozen = group.get("frozen")
        if "frozen" in group and not isinstance(frozen, bool):
            raise Invalid("frozen must be true or false.", pointer=f"/{i}/frozen")
        overrides = {k: v for k, v in group.items() if k not in ("match", "frozen")}
        parsed.append(Group(group["match"], overrides, frozen))
    return tuple(parsed)


def assign(spec: Specification, groups: Sequence[Group], layout: Layout) -> Members:
    """Which tensors have which hyperparameters; raises Invalid for a pattern without a match or a wrong override."""
    matching: dict[tuple[int, ...], list[int]] = {}
    for i, name in enumerate(layout.names):
        key = tuple(k for k, group in enumerate(groups) if group.matches(name))
        matching.setdefault(key, []).append(i)
    for k, group in enumerate(groups):
        if not any(k in key for key in matching):
            listed = ", ".join(layout.names[:20])
            raise Invalid(f"No parameter matches {group.match[:80]!r}. Names: {listed}.", pointer=f"/{k}/match")
    members: dict[tuple[int, ...], Specification] = {}
    for key, indices in matching.items():
        members[tuple(indices)] = _overridden(spec, groups, tuple(k for k in key if groups[k].overrides))
    same: dict[int, tuple[Specification, list[int]]] = {}  # one entry each, however many patterns led to it
    for found, mine in members.items():
        same.setdefault(id(mine), (mine, []))[1].extend(found)
    merged = [(mine, tuple(sorted(whole))) for mine, whole in same.values()]
    return tuple(sorted(merged, key=lambda member: member[1]))


def _overridden(spec: Specification, groups: Sequence[Group], key: tuple[int, ...]) -> Specification:
    """The specification with the matching groups' overrides, the later ones winning."""
    for k in key:
        given = {name: v for name, v in spec.as_json().items() if name not in ("name", "dialect")}
        try:
            changed = filled(spec.algorithm, spec.dialect_name, {**given, **groups[k].overrides}, spec.transforms)
            if changed.driven != spec.driven and any(s not in spec.driven.values() for s in changed.driven.values()):
                raise Invalid("A group cannot follow the loss on its own; give that schedule to all.", pointer="")
        except Invalid as error:
            raise error.at(f"/{k}") from None
        if changed.rule is not spec.rule:
            raise Invalid("A group cannot change which state is kept; give these options to all.", pointer=f"/{k}")
        spec = changed
    return spec
