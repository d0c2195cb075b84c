# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all unit tests."""

from __future__ import annotations

import typing as t

import pytest
import requests.adapters
from ansible_collections.lxcri.proxmox.tests.unit.support import Wire
from hypothesis import HealthCheck, settings

# How long an example takes says more about the host and what else it does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., Wire]:
    """Makes every request of this test end at a Wire that gives the answers."""

    def install(*answers: t.Any) -> Wire:
        end = Wire(*answers)
        monkeypatch.setattr(
            requests.adapters.HTTPAdapter, "send", lambda _self, request, **options: end.send(request, **options)
        )
        return end

    return install
