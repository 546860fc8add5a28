"""Typed values: how an object of a Python type becomes JSON, and JSON such an object.

A **shape** is a type as values have it: a dataclass, TypedDict, NamedTuple, attrs class,
`msgspec.Struct`, pydantic model, or whatever else msgspec knows, such as `datetime`, `Decimal`,
`UUID`, enums, sets, `list[Order]` and `Order | None`.  What does not fit is a Misfit, which names
the path inside the value: `$.seats[2].row`.

**Tags.**  In a union of several classes (`Paid | Cancelled`), and in an event, the field `$type`
names the class.  Structs with tags of their own keep those.

**Versions.**  A class that `upcast` was called for has a version: one more than the newest that is
lifted from.  Its objects are stored with it, in the field `$version`; one without that field is of
version 1.  Reading lifts an older one step by step.  One that no upcast lifts, or that is newer
than this process knows, does not fit.

msgspec is imported when a type is first used, pydantic never: a model brings what is called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, get_args, get_origin

from interlock.core.refusals import Invalid, described
from interlock.core.struct import Json, is_model, is_result, plain
from interlock.core.type_tree import class_of, classes_in, name_of, tree_of, walk

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
Lift = Callable[[dict[str, Any]], Any]

VERSION, TYPE = "$version", "$type"
_upcasts: dict[Any, dict[int, Lift]] = {}  # by class, then by the version that is lifted


class Misfit(ValueError):
    """A value is not of the shape it should have: what is wrong, and where inside the value."""

    def __init__(self, text: str, path: str = "$") -> None:
        super().__init__(text if path == "$" else f"{text} at {path}")
        self.text = text
        self.path = path


class Shape(Generic[T]):
    """A type as values of a store have it.  Made by `shape_of`."""

    def __init__(self, form: object) -> None:
        self.form: Any = form
        self.name = name_of(form)
        self._tree = tree_of(form)

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes of the objects in it, each once."""
        return tuple(classes_in(self._tree, {}))

    def encode(self, value: T) -> Json:
        """Return an object of the type as JSON.  Raises Misfit where it is none."""
        plain = _plain(value)
        self._convert(plain)  # what a field holds is not always what it was declared to hold
        return walk(self._tree, plain, _stamped, "$")

    def decode(self, value: Json) -> T:
        """Return JSON as an object of the type.  Raises Misfit where it does not fit."""
        return self._convert(self._lifted(value))

    def decode_many(self, values: Sequence[Json]) -> list[T]:
        """Return many values as objects, as `decode` does one by one, in one pass if possible."""
        tree = self._tree
        flat = tree is None or (tree.form and not tree.fields and version_of(tree.form) == 1)
        if flat and not any(isinstance(each, dict) and VERSION in each for each in values):
            with suppress(Misfit):  # the first one that does not fit is named below
                many: Any = list.__class_getitem__(self.form)
                found: list[T] = _converted(values, many)
                return found
        return [self.decode(each) for each in values]

    def changed(self, stored: Json, value: T) -> Json:
        """Return an object as JSON, with the fields of `stored` that the type does not know.

        Raises Misfit where `value` is of another type, or where such a field stands in a list that
        has changed, so that it is not known where it belongs.
        """
        new = self.encode(value)
        lifted = self._lifted(stored)
        # The function may have changed the object that it was given, so it is made once more.
        return _carried(lifted, self.encode(self._convert(lifted)), new, "$")

    def _lifted(self, value: Json) -> Json:
        return walk(self._tree, value, _lifted, "$")

    def _convert(self, value: Json) -> T:
        found: T = _converted(value, self.form)
        return found


def _converted(value: Json, form: Any) -> Any:
    import msgspec

    try:
        return msgspec.convert(value, form, str_keys=True, dec_hook=_from_json)
    except msgspec.ValidationError as problem:
        raise _misfit(problem) from problem
    except RecursionError as problem:
        raise Misfit("it is nested too deeply, or contains itself") from problem


class Tagged(Shape[T]):
    """A union of classes whose objects say in `$type` which of them they are of.

    `rest` is the shape of whatever else may stand in their place.
    """

    def __init__(self, form: object, classes: tuple[Any, ...], rest: Shape[Any] | None) -> None:
        self.form = form
        self.name = name_of(form)
        self._rest = rest
        self._shapes: dict[str, Shape[Any]] = {}
        for each in classes:
            if _tag(each) in self._shapes:
                raise TypeError(f"two of its classes are named {_tag(each)!r}")
            if not _is_object(each) or issubclass(class_of(each), dict):
                raise TypeError(f"objects of {name_of(each)} don't know their class")
            self._shapes[_tag(each)] = Shape(each)
        self._known = ", ".join(self._shapes)
        self._rows: Any = None  # the decoder of `decode_lines`, made when it is first used

    @property
    def tags(self) -> tuple[str, ...]:
        """What `$type` may be."""
        return tuple(self._shapes)

    @property
    def members(self) -> tuple[Any, ...]:
        """What the union is of: the classes, then the rest."""
        rest = () if self._rest is None else (self._rest.form,)
        return (*(shape.form for shape in self._shapes.values()), *rest)

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes of the objects in it, each once."""
        rest = () if self._rest is None else (self._rest,)
        found = (cls for shape in (*self._shapes.values(), *rest) for cls in shape.classes)
        return tuple(dict.fromkeys(found))

    def encode(self, value: T) -> Json:
        """Return an object of one of the classes as JSON.  Raises Misfit where it is of none."""
        name = type(value).__name__
        shape = self._shapes.get(name)
        if shape is not None and type(value) is class_of(shape.form):
            return {TYPE: name, **shape.encode(value)}
        if self._rest is None:
            raise Misfit(f"expected one of {self._known}, got {name}")
        return self._rest.encode(value)

    def decode_many(self, values: Sequence[Json]) -> list[T]:
        """Return many values as objects, as `decode` does one by one, those of a class in one pass.

        Raises Misfit about the first of any class that does not fit.
        """
        found: list[Any] = [None] * len(values)
        indexes: dict[Any, list[int]] = {}
        for index, value in enumerate(values):
            tag = value.get(TYPE) if isinstance(value, dict) else None
            indexes.setdefault(tag if isinstance(tag, str) else None, []).append(index)
        for tag, those in indexes.items():
            shape = self._shapes.get(tag) if tag is not None else None
            if shape is None:
                made = [self.decode(values[index]) for index in those]
            else:
                group = [values[index] for index in those]
                minds = _minds_unknown(shape.form)
                made = shape.decode_many([*map(_untagged, group)] if minds else group)
            for index, each in zip(those, made, strict=True):
                found[index] = each
        return found

    def decode_lines(self, lines: str, only: bool) -> list[T]:
        """Return JSON texts, one a line, as objects, in one pass.  `only`: leave out those of other
        classes.

        Raises Misfit where they have to be looked at one by one: where one does not fit, may have
        to be lifted, does not begin with `$type` as `encode` has it, or its class may mind it.
        """
        if not lines:
            return []
        if self._rows is None:
            self._rows = _rows_of(self._shapes)
        if f'"{VERSION}"' in lines or any(version_of(each) > 1 for each in self.classes):
            raise Misfit("it may have a version")
        text = f"\n{lines}"
        for tag in self._shapes:
            text = _wrapped(text, f'{tag}"', tag)
        if only:
            text = _wrapped(text, "", "")
        try:
            found = self._rows.decode(f"[{text[2:]}}}]")
        except (ValueError, RecursionError) as problem:
            raise Misfit(described(problem)) from problem
        return [row.v for row in found if row.v is not None] if only else [row.v for row in found]

    def _convert(self, value: Json) -> T:
        found: T
        if not isinstance(value, dict) or TYPE not in value:
            if self._rest is None:
                raise Misfit(f"expected an object whose {TYPE} is one of {self._known}")
            found = self._rest._convert(value)
            return found
        found = self._shape_in(value)._convert(_untagged(value))
        return found

    def _shape_in(self, value: dict[str, Any]) -> Shape[Any]:
        tag = value[TYPE]
        if not isinstance(tag, str) or tag not in self._shapes:
            raise Misfit(f"expected one of {self._known}, got {tag!r:.60}", f"$.{TYPE}")
        return self._shapes[tag]

    def _lifted(self, value: Json) -> Json:
        if isinstance(value, dict) and TYPE in value:
            return {TYPE: value[TYPE], **self._shape_in(value)._lifted(_untagged(value))}
        return value if self._rest is None else self._rest._lifted(value)


def _rows_of(shapes: Mapping[str, Shape[Any]]) -> Any:
    """Return the decoder of a list of rows `{"t":TAG,"v":OBJECT}`; `v` is None where `t` is ""."""
    import msgspec

    if any(_minds_unknown(shape.form) for shape in shapes.values()):
        raise Misfit(f"it may mind {TYPE}")
    rows: list[Any] = [
        msgspec.defstruct("Row", [("v", shape.form)], tag=tag, tag_field="t", gc=False)
        for tag, shape in shapes.items()
    ]
    rows.append(msgspec.defstruct("Row", [], namespace={"v": None}, tag="", tag_field="t"))
    many: Any = list.__class_getitem__(Union[tuple(rows)])  # noqa: UP007
    return msgspec.json.Decoder(many, dec_hook=_from_json)


def _wrapped(lines: str, beginning: str, tag: str) -> str:
    """Return lines with those that begin so as rows of `tag`; a line feed is in no JSON text."""
    begins = f'{{"{TYPE}":"{beginning}'
    return lines.replace(f"\n{begins}", f'}},{{"t":"{tag}","v":{begins}')


def shape_of(form: TypeForm[T]) -> Shape[T] | Invalid:
    """Return the shape of a type, or why values cannot have it."""
    try:
        return _shape(form)  # type: ignore[arg-type]  # every type is hashable, or is refused
    except Exception as problem:  # what msgspec, or resolving an annotation, says against it
        return Invalid(f"{name_of(form)} can't be the type of a value: {described(problem)}")


def tagged(*classes: type[T]) -> Tagged[T] | Invalid:
    """Return the shape of objects of any of `classes`, each with `$type` even where it is one."""
    try:
        if not classes:
            raise TypeError("there is no class")
        return _tagged(classes)
    except Exception as problem:
        names = ", ".join(map(name_of, classes))
        return Invalid(f"({names}) can't be types of events: {described(problem)}")


@lru_cache(maxsize=1024)
def _shape(form: Hashable) -> Shape[Any]:
    members = get_args(form) if get_origin(form) in (Union, UnionType) else ()
    classes = tuple(each for each in members if _is_object(each) and not _has_own_tag(each))
    if len(classes) < 2:
        return Shape(form)
    others = tuple(each for each in members if each not in classes)
    return Tagged(form, classes, _shape(Union[others]) if others else None)  # noqa: UP007


@lru_cache(maxsize=1024)
def _tagged(classes: tuple[Any, ...]) -> Tagged[Any]:
    return Tagged(Union[classes], classes, None)  # noqa: UP007


def to_json(value: Json) -> Json | Invalid:
    """Return a value with each typed object in it as JSON has it, or why one has not its shape."""
    try:
        return _untyped(value, "$")
    except Misfit as problem:
        return Invalid(f"The value does not fit {problem}.")
    except RecursionError:
        return Invalid("The value is nested too deeply, or contains itself.")


def _untyped(value: Any, path: str) -> Json:
    form = type(value)
    if is_result(value):
        name = form.__name__
        raise Misfit(f"JSON: pass the value of a {name}, not the {name} itself", path)
    if _is_object(form) or (isinstance(value, tuple) and hasattr(form, "_fields")):
        shape = shape_of(form)
        if isinstance(shape, Invalid):
            raise Misfit(f"JSON: {shape.message}", path)
        try:
            return shape.encode(value)
        except Misfit as problem:
            raise Misfit(f"{shape.name}: {problem.text}", path + problem.path[1:]) from problem
    if isinstance(value, dict):
        return {key: _untyped(each, f"{path}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_untyped(each, f"{path}[{index}]") for index, each in enumerate(value)]
    return value


def _untagged(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != TYPE}


def _carried(stored: Json, before: Json, new: Json, path: str) -> Json:
    """Return `new` with what `stored` has and `before`, which was made of it, has not."""
    if isinstance(stored, dict) and isinstance(before, dict) and isinstance(new, dict):
        if before.get(TYPE) != new.get(TYPE):
            return new
        if new.keys() - before.keys():  # perhaps under another name now, without those fields
            for name in before.keys() - new.keys():
                _check_all(stored.get(name), before[name], f"{path}.{name}")
        found = {}  # in the order of what is stored, so that no change makes no new text
        for name, each in stored.items():
            if name in new and name in before:
                found[name] = _carried(each, before[name], new[name], f"{path}.{name}")
            elif name not in before:
                found[name] = new.get(name, each)
        return found | {name: each for name, each in new.items() if name not in found}
    if isinstance(stored, list) and isinstance(before, list) and len(stored) == len(before):
        for index, each in enumerate(stored):
            if before != new:
                _check_all(each, before[index], f"{path}[{index}]")
        if before == new:
            return [
                _carried(*each, f"{path}[{index}]")
                for index, each in enumerate(zip(stored, before, new, strict=True))
            ]
    return new


def _check_all(stored: Json, before: Json, path: str) -> None:
    if not _is_all(stored, before):
        raise Misfit("it has fields that the type does not know, and would lose", path)


def _is_all(stored: Json, before: Json) -> bool:
    """Whether everything in `stored` has its place in what was made of it."""
    if isinstance(stored, dict) and isinstance(before, dict):
        return all(name in before and _is_all(stored[name], before[name]) for name in stored)
    if isinstance(stored, list) and isinstance(before, list) and len(stored) == len(before):
        return all(map(_is_all, stored, before))
    return True


def upcast(form: Any, from_version: int, fn: Lift) -> Invalid | None:
    """Lift objects of the class `form` that were stored as `from_version` by one version.

    `fn` gets the fields as JSON has them and returns those of the next version.  Returns why that
    cannot be declared.
    """
    if not isinstance(form, type) or not _is_object(form):
        return Invalid(
            f"{name_of(form)} can't have versions: use a dataclass, TypedDict, Struct, attrs class "
            "or pydantic model."
        )
    if isinstance(from_version, bool) or not isinstance(from_version, int) or from_version < 1:
        return Invalid(f"from_version={from_version!r} must be a whole number from 1.")
    if not callable(fn):
        return Invalid(f"The upcast of {name_of(form)} is a function, not {fn!r:.60}")
    known = _upcasts.get(form, {})
    if known.get(from_version, fn) is not fn:
        return Invalid(f"{name_of(form)} has another upcast from version {from_version}.")
    wrong = shape_of(form)
    if isinstance(wrong, Invalid):
        return wrong
    _upcasts[form] = {**known, from_version: fn}
    return None


def version_of(form: Any) -> int:
    """Return the version that objects of a class are stored as; 1 where none was declared."""
    return 1 + max(_upcasts.get(class_of(form), ()), default=0) if _upcasts else 1


def _stamped(form: Any, value: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an object of a class with its version, where that has one."""
    if VERSION in value:
        raise Misfit(f"{VERSION} is a reserved name", path)
    version = version_of(form)
    return value if version == 1 else {VERSION: version, **value}


def _lifted(form: Any, value: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an object of a class as its newest version has it, without the version."""
    newest = version_of(form)
    if newest == 1 and VERSION not in value:
        return value
    version = value.get(VERSION, 1)
    where = f"{path}.{VERSION}"
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Misfit(f"{version!r:.60} is not a version", where)
    if version > newest:
        raise Misfit(
            f"{name_of(form)} has version {version}, and this process knows {newest} as the newest",
            where,
        )
    found: Any = {name: each for name, each in value.items() if name != VERSION}
    for old in range(version, newest):
        lift = _upcasts[class_of(form)].get(old)
        if lift is None:
            raise Misfit(f"{name_of(form)} has version {old}, which no upcast lifts", where)
        try:
            found = lift(found)
        except Exception as problem:
            raise Misfit(
                f"the upcast of {name_of(form)} from version {old} raised {described(problem)}",
                path,
            ) from problem
        if not isinstance(found, dict):
            raise Misfit(
                f"the upcast of {name_of(form)} from version {old} returned "
                f"{type(found).__name__}, not a dict",
                path,
            )
    return dict(found)


def _plain(value: object) -> Json:
    """Return an object as JSON has it.  Raises Misfit where that cannot be."""
    try:
        return plain(value, ordered=True)
    except RecursionError as problem:
        raise Misfit("it is nested too deeply, or contains itself") from problem
    except (TypeError, ValueError, OverflowError) as problem:
        raise Misfit(described(problem)) from problem


def _from_json(form: Any, value: Json) -> Any:
    """Return JSON as an object of a class that msgspec does not know: a pydantic model."""
    try:
        return form.model_validate(value)
    except ValueError as problem:
        errors = getattr(problem, "errors", None)
        if errors is None:
            raise
        first = errors(include_url=False)[0]
        path = "".join(f"[{e}]" if isinstance(e, int) else f".{e}" for e in first["loc"])
        raise Misfit(first["msg"], f"${path}") from problem


def _misfit(problem: Exception) -> Misfit:
    """Return what msgspec says, with the path on which a model inside went on."""
    text, _, path = str(problem).partition(" - at ")
    path = path.strip("`").replace("`", "") or "$"
    inner = problem.__cause__
    if isinstance(inner, Misfit):
        return Misfit(inner.text, path + inner.path[1:])
    return Misfit(text.replace("`", ""), path)


def _is_object(form: Any) -> bool:
    """Whether a type is a class whose objects have named fields, as JSON objects do."""
    cls = class_of(form)
    return isinstance(cls, type) and (
        hasattr(cls, "__dataclass_fields__")
        or hasattr(cls, "__attrs_attrs__")
        or (hasattr(cls, "__struct_fields__") and not _config(cls).array_like)
        or (hasattr(cls, "__required_keys__") and hasattr(cls, "__total__"))
        or is_model(cls)
    )


def _has_own_tag(form: Any) -> bool:
    return hasattr(class_of(form), "__struct_fields__") and _config(class_of(form)).tag is not None


def _minds_unknown(form: Any) -> bool:
    """Whether a class may refuse, or keep, fields that it does not know."""
    cls = class_of(form)
    forbids = hasattr(cls, "__struct_fields__") and _config(cls).forbid_unknown_fields
    return bool(forbids) or is_model(cls)


def _config(struct: Any) -> Any:
    return struct.__struct_config__


def _tag(form: Any) -> str:
    return str(class_of(form).__name__)
