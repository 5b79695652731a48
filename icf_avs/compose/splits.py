"""Who is in which split: pictures and recordings are dealt once, so that no two splits share one."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

SHARES = {"val": 0.1, "test": 0.1, "train": 0.8}


def identities(paths: Iterable[Path]) -> dict[Path, str]:
    """A key for each file, the same for files of the same content whatever their names.

    Only files of the same size are read: two that are equal have the same.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(set(paths)):
        by_size[path.stat().st_size].append(path)
    found = {}
    for size, same in by_size.items():
        for path in same:
            content = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if len(same) > 1 else path.name
            found[path] = f"{size}-{content}"
    return found


def deal(items: Mapping[str, Collection[str]], splits: Collection[str], seed: int) -> dict[str, str]:
    """Split of each item; items: its classes by key. A function of the keys and the seed.

    The rarest class is dealt first, so that each split gets some of every class where there are as many items as
    splits; a class with fewer is in one split alone, train if that is asked for.
    """
    shares = {split: share for split, share in SHARES.items() if split in splits}
    *smaller, largest = shares
    members: dict[str, list[str]] = defaultdict(list)
    for key in sorted(items, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest()):
        for kind in items[key]:
            members[kind].append(key)
    dealt: dict[str, str] = {}
    for kind in sorted(members, key=lambda kind: (len(members[kind]), kind)):
        keys = members[kind]
        left = [key for key in keys if key not in dealt]
        have = Counter(dealt[key] for key in keys if key in dealt)
        for split in smaller if len(keys) >= len(shares) else ():
            want = max(1, round(len(keys) * shares[split] / sum(shares.values()))) - have[split]
            dealt |= dict.fromkeys(left[: max(want, 0)], split)
            left = left[max(want, 0) :]
        dealt |= dict.fromkeys(left, largest)
    return dealt
