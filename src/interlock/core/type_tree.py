"""What a type is made of, as far as there are objects in it: where they stand, and of which class.

Objects are what carries a version, and what a field can be lost from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_origin

from interlock.core.struct import Json, is_model


class TypeTree:
    """One place in a type: what stands there, and below it, as far as there are objects.

    `form` is the class of an object, `tag` the field and the text that a tagged Struct is known by.
    Below are `fields` by name, `places` of a tuple, or `each` item; `options` are those of a union.
    """

    __slots__ = ("each", "fields", "form", "options", "places", "tag")

    def __init__(self) -> None:
        self.form: Any = None
        self.tag: tuple[str, Any] | None = None
        self.fields: dict[str, TypeTree] = {}
        self.places: tuple[TypeTree | None, ...] = ()
        self.each: TypeTree | None = None
        self.options: tuple[TypeTree, ...] = ()

    def option(self, value: Json) -> TypeTree | None:
        """Return which option of a union a value is, None where nothing is to be done with it."""
        if isinstance(value, dict):
            for option in self.options:
                if option.tag is not None and value.get(option.tag[0]) == option.tag[1]:
                    return option
            untagged = (each for each in self.options if each.tag is None and not each.places)
            return next(untagged, None)
        return next((each for each in self.options if each.places or each.form is None), None)


def walk(
    tree: TypeTree | None,
    value: Json,
    change: Callable[[Any, dict[str, Any], str], dict[str, Any]],
    path: str,
) -> Json:
    """Return a value with every object in it changed, from the outside in."""
    if tree is not None and tree.options:
        tree = tree.option(value)
    if tree is None:
        return value
    if isinstance(value, dict):
        if tree.form is not None:
            value = change(tree.form, value, path)
            if not tree.fields:
                return value
        below = tree.fields
        return {
            name: walk(below.get(name, tree.each), each, change, f"{path}.{name}")
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        places = tree.places or (tree.each,) * len(value)
        return [
            walk(place, each, change, f"{path}[{index}]")
            for index, (place, each) in enumerate(zip(places, value, strict=False))
        ] + list(value[len(places) :])
    return value


def classes_in(tree: TypeTree | None, known: dict[Any, None]) -> dict[Any, None]:
    """Return `known` with the classes of the objects in a type."""
    if tree is not None and class_of(tree.form) not in known:
        if tree.form is not None:
            known[class_of(tree.form)] = None
        for below in (*tree.fields.values(), *tree.places, tree.each, *tree.options):
            classes_in(below, known)
    return known


def tree_of(form: Any) -> TypeTree | None:
    """Return what is to be walked through in values of a type.  Raises TypeError where msgspec
    does not know it."""
    import msgspec

    if not is_model(form):
        msgspec.json.Decoder(form, dec_hook=lambda cls, value: value)  # raises what is wrong
    return _grown(msgspec.inspect.type_info(form), {})


def _grown(info: Any, known: dict[Any, TypeTree]) -> TypeTree | None:
    from msgspec import inspect

    tree = TypeTree()
    if isinstance(info, inspect.Metadata):
        return _grown(info.type, known)
    if isinstance(info, inspect.CustomType):
        return _grown_model(info.cls, known)
    if isinstance(
        info, inspect.StructType | inspect.DataclassType | inspect.TypedDictType
    ) and not getattr(info, "array_like", False):
        if info.cls in known:
            return known[info.cls]
        tree = known[info.cls] = TypeTree()
        tree.form = info.cls
        tag_field = getattr(info, "tag_field", None)
        if tag_field is not None:
            tree.tag = (tag_field, getattr(info, "tag", None))
        for field in info.fields:
            below = _grown(field.type, known)
            if below is not None:
                tree.fields[field.encode_name] = below
        return tree
    if isinstance(info, inspect.UnionType):
        tree.options = tuple(filter(None, (_grown(each, known) for each in info.types)))
        return tree if tree.options else None
    if isinstance(info, inspect.NamedTupleType | inspect.StructType):
        tree.places = tuple(_grown(field.type, known) for field in info.fields)
    elif isinstance(info, inspect.TupleType):
        tree.places = tuple(_grown(each, known) for each in info.item_types)
    elif isinstance(info, inspect.DictType):
        tree.each = _grown(info.value_type, known)
    elif isinstance(info, inspect.CollectionType):
        tree.each = _grown(info.item_type, known)
    return tree if tree.each is not None or any(tree.places) else None


def _grown_model(model: Any, known: dict[Any, TypeTree]) -> TypeTree:
    from msgspec import inspect

    if not is_model(model):
        raise TypeError(f"{name_of(model)} is not a type that msgspec or pydantic knows")
    if model not in known:
        known[model] = tree = TypeTree()
        tree.form = model
        for name, field in model.model_fields.items():
            below = _grown(inspect.type_info(field.annotation), known)
            if below is not None:
                tree.fields[field.alias or name] = below
    return known[model]


def class_of(form: Any) -> Any:
    """Return the class that a type is, or is made of: `Page` for `Page[int]`."""
    return get_origin(form) or form


def name_of(form: Any) -> str:
    """Return what to call a type in a message."""
    if isinstance(form, type) and get_origin(form) is None:
        return form.__qualname__
    return str(form).replace("__main__.", "")[:200]
