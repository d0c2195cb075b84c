# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fields of a cluster's objects: what a value may be, its normal form, and how it is sent.

Proxmox gives one value back in several spellings: sets in any order, property strings here and objects there, numbers
as texts. A *normal form* is a plain Python value in which two spellings of the same value are equal:

=========  =====================================================================================
kind       normal form
=========  =====================================================================================
string     str
bool       bool
flag       bool, where the API wants a whole number of which only zero means no
int        int
number     int, or float where it is none
words      tuple of str; sorted and each once unless the order counts
map        dict of normal forms (a property string), without what says the default anyway
maps       tuple of such dicts; sorted unless the order counts
=========  =====================================================================================

Nothing here does I/O.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Repeated
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.formats import FORMATS, InvalidValue

TRUE_WORDS = ("1", "on", "yes", "true")
FALSE_WORDS = ("0", "off", "no", "false")
# What stands for a secret in plans, diffs and results.
MASK = "********"
# PVE::Tools::split_list
SEPARATORS = re.compile(r"[,;\s\0]+")


@dataclass(frozen=True)
class Field:
    """One field of an object, or one sub-key of a property string.

    kind: see above.
    default: the value that means the same as leaving the field out; None when there is none.
    choices, minimum, maximum, shortest, longest, pattern, format: what is allowed, for ``words`` of each;
        ``longest`` for all together, unless they are a parameter that is repeated.
    subs: the sub-keys of a ``map`` or ``maps``; default_sub: the one that may be written without its name.
    joined: what joins the items of ``words`` when they are sent; ``array`` for a parameter that is repeated.
    ordered: whether the order of the items counts.
    folded: whether upper and lower case mean the same.
    same: other spellings of a value.
    required: whether an object cannot be without it.
    fixed: whether it can only be given when the object is made.
    swapped: the key of a list's entry with which Proxmox exchanges it, so that either may have what is declared.
    kept: whether Proxmox sets it by itself, so that it stays when it is not declared.
    secret: whether it must not be shown; readable: whether reads give it nevertheless, so that it can be compared.
    apart: the path of a PUT that sets a secret of an existing object.
    lasting: the file of a secret that is not replaced, because what was made with it is of no use without it. Reads
        tell its fingerprint.
    passing: whether it only goes along with a request and is not stored.
    unset: how it is removed: ``delete`` (named in the parameter of that name), ``empty`` (sent empty), ``blank`` (sent
        as a blank), ``default`` (the default is sent) or ``omitted`` (not sent, in an update that replaces everything).
    needs: fields that a request has to repeat when it has this one.
    only: the values of other fields without which Proxmox drops this one.
    reserved: the pattern of values that Proxmox sets by itself, which say nothing and cannot be declared.
    root: whether only root@pam with a password may set it.
    """

    kind: str = "string"
    default: t.Any = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    shortest: int | None = None
    longest: int | None = None
    pattern: str | None = None
    format: str | None = None
    subs: t.Mapping[str, Field] = field(default_factory=dict)
    default_sub: str | None = None
    joined: str = ","
    ordered: bool = False
    folded: bool = False
    same: t.Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    fixed: bool = False
    swapped: str | None = None
    kept: bool = False
    secret: bool = False
    readable: bool = False
    apart: str | None = None
    lasting: str | None = None
    passing: bool = False
    unset: str = "delete"
    needs: tuple[str, ...] = ()
    only: t.Mapping[str, tuple[t.Any, ...]] = field(default_factory=dict)
    reserved: str | None = None
    root: bool = False

    @property
    def compared(self) -> bool:
        """Whether what is there can be compared with what is declared."""
        return not self.passing and (self.readable or not self.secret)

    def is_reserved(self, value: t.Any) -> bool:
        """Whether a value is one that Proxmox sets by itself."""
        return self.reserved is not None and re.fullmatch(self.reserved, str(value)) is not None


# ---------------------------------------------------------------------------------------------------- normal forms


def normal(it: Field, value: t.Any) -> t.Any:
    """The normal form of a value as a playbook or Proxmox spells it.

    Raises:
        InvalidValue: it is not allowed.
    """
    reader = _READERS[it.kind]
    return reader(it, value)


def actual(it: Field, value: t.Any) -> t.Any:
    """The normal form of what Proxmox has; its text as it is when it is none that this collection knows."""
    try:
        return normal(it, value)
    except InvalidValue:
        return str(value)


def significant(it: Field, value: t.Any) -> bool:
    """Whether a normal form says anything more than leaving the field out."""
    if value is None or value == it.default:
        return False
    return not (it.kind in ("words", "map", "maps", "string") and len(value) == 0)


def _text(it: Field, value: t.Any) -> str:
    if isinstance(value, bool) and it.default in ("yes", "no"):
        value = "yes" if value else "no"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidValue(f"a text is wanted, not {_type_of(value)}")
    return _checked(it, str(value))


def _checked(it: Field, text: str) -> str:
    """A single text in its normal form."""
    text = it.same.get(text, text)
    if it.folded:
        text = text.lower()
    if it.format:
        text = FORMATS[it.format](text)
    if it.pattern is not None and not re.fullmatch(it.pattern, text, re.DOTALL):
        raise InvalidValue(f"{text!r} does not match {it.pattern}")
    if it.choices and text not in it.choices:
        raise InvalidValue(f"{text!r} is none of {', '.join(it.choices)}")
    _check_longest(it, text)
    if it.shortest is not None and len(text) < it.shortest:
        raise InvalidValue(f"at least {it.shortest} characters are wanted")
    return text


def _check_longest(it: Field, text: str) -> None:
    if it.longest is not None and len(text) > it.longest:
        raise InvalidValue(f"at most {it.longest} characters are allowed")


def _bool(_it: Field, value: t.Any) -> bool:
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise InvalidValue(f"true or false is wanted, not {_shown(value)}")


def _flag(it: Field, value: t.Any) -> bool:
    if not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)):
        return int(value) != 0
    return _bool(it, value)


def _int(it: Field, value: t.Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value).strip()):
        raise InvalidValue(f"a whole number is wanted, not {_shown(value)}")
    number = int(value)
    _check_range(it, number)
    if it.choices and str(number) not in it.choices:
        raise InvalidValue(f"{number} is none of {', '.join(it.choices)}")
    return number


def _number(it: Field, value: t.Any) -> float:
    """PVE::JSONSchema::is_number"""
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", str(value).strip()):
        raise InvalidValue(f"a number is wanted, not {_shown(value)}")
    number = float(value)
    _check_range(it, number)
    return int(number) if number.is_integer() else number


def _check_range(it: Field, number: float) -> None:
    if it.minimum is not None and number < it.minimum:
        raise InvalidValue(f"{number} is less than {it.minimum}")
    if it.maximum is not None and number > it.maximum:
        raise InvalidValue(f"{number} is more than {it.maximum}")


def _words(it: Field, value: t.Any) -> tuple[str, ...]:
    items: t.Sequence[t.Any]
    if isinstance(value, (list, tuple)):
        items = value
    elif it.joined == "array":
        items = [value]
    else:
        items = [word for word in SEPARATORS.split(_plain(value)) if word]
    each = it if it.joined == "array" else replace(it, longest=None)
    found = [_text(each, item) for item in items]
    if each is not it:
        _check_longest(it, it.joined.join(found))
    for item in found:
        if it.joined != "array" and SEPARATORS.search(item):
            raise InvalidValue(f"{item!r} has a separator in it")
    return tuple(found) if it.ordered else tuple(sorted(dict.fromkeys(found)))


def _plain(value: t.Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidValue(f"a list is wanted, not {_type_of(value)}")
    return str(value)


def _map(it: Field, value: t.Any) -> dict[str, t.Any]:
    parts = _parsed(it, value) if isinstance(value, str) else value
    if not isinstance(parts, dict):
        raise InvalidValue(f"a dictionary is wanted, not {_type_of(value)}")
    found = {}
    for name, sub_value in parts.items():
        sub = it.subs.get(str(name))
        if sub is None:
            raise InvalidValue(f"{name!r} is none of its keys: {', '.join(it.subs)}")
        if sub_value is None:
            continue
        try:
            read = normal(sub, sub_value)
        except InvalidValue as problem:
            raise InvalidValue(f"{name}: {problem}") from None
        if "," in str(read):
            raise InvalidValue(f"{name}: a comma would end it")
        if sub.required or significant(sub, read):
            found[str(name)] = read
    lacking = [name for name, sub in it.subs.items() if sub.required and name not in found]
    if lacking:
        raise InvalidValue(f"{lacking[0]} is missing")
    return {name: found[name] for name in it.subs if name in found}


def _parsed(it: Field, text: str) -> dict[str, str]:
    """A property string (``parse_property_string`` of PVE/JSONSchema.pm)."""
    parts: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, rest = part.partition("=")
        if not equals:
            if it.default_sub is None:
                raise InvalidValue(f"{part!r} has no key")
            name, rest = it.default_sub, part
        if name in parts:
            raise InvalidValue(f"{name} is given twice")
        parts[name] = rest
    return parts


def _maps(it: Field, value: t.Any) -> tuple[dict[str, t.Any], ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidValue(f"a list is wanted, not {_type_of(value)}")
    found = [_map(it, item) for item in value]
    return tuple(found if it.ordered else sorted(found, key=lambda each: sorted(map(repr, each.items()))))


def _type_of(value: t.Any) -> str:
    names = {"dict": "a dictionary", "list": "a list", "tuple": "a list", "bool": "true or false"}
    return names.get(type(value).__name__, "that")


def _shown(value: t.Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else _type_of(value)


_READERS: dict[str, t.Callable[[Field, t.Any], t.Any]] = {
    "string": _text,
    "bool": _bool,
    "flag": _flag,
    "int": _int,
    "number": _number,
    "words": _words,
    "map": _map,
    "maps": _maps,
}


# ------------------------------------------------------------------------------------------------------- spellings


def sent(it: Field, value: t.Any) -> t.Any:
    """A normal form as a parameter of a request."""
    if it.kind in ("bool", "flag"):
        return int(value)
    if it.kind == "number":
        return f"{value:.0f}" if float(value).is_integer() else str(value)
    if it.kind == "words":
        return Repeated(value) if it.joined == "array" else it.joined.join(value)
    if it.kind == "map":
        return property_string(it, value)
    if it.kind == "maps":
        return Repeated(property_string(it, item) for item in value)
    return value


def property_string(it: Field, value: t.Mapping[str, t.Any]) -> str:
    """A normal form of a map as Proxmox writes it, in the order of its sub-keys."""
    return ",".join(f"{name}={sent(it.subs[name], value[name])}" for name in it.subs if name in value)


def told(it: Field, value: t.Any) -> t.Any:
    """A normal form as results show it, and as a playbook may give it."""
    if it.secret:
        return MASK
    if it.kind == "words" and not isinstance(value, str):
        return list(value)
    if it.kind == "map" and isinstance(value, dict):
        return {name: told(it.subs[name], item) for name, item in value.items()}
    if it.kind == "maps" and not isinstance(value, str):
        return [{name: told(it.subs[name], item) for name, item in each.items()} for each in value]
    return value
