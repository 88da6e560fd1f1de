"""Guessing passwords: each wrong one costs more time than the one before, and nobody else pays."""

from __future__ import annotations

import asyncio
import base64

import pytest

from cxr_mmdet.web import auth
from cxr_mmdet.web.auth import BasicAuth, Throttle

USERS = {"ann": "sesame", "bob": "open"}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()

    async def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(auth.asyncio, "sleep", sleep)
    return clock


@pytest.fixture
def site(clock):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return BasicAuth(app, USERS, Throttle(clock=clock))


def ask(site, user=None, password="", client="10.0.0.1"):
    headers = []
    if user is not None:
        headers = [(b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode()))]
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(site({"type": "http", "headers": headers, "client": (client, 1)}, None, send))
    return sent[0]["status"]


def test_each_wrong_password_costs_more(site, clock):
    costs = []
    for _ in range(12):
        before = clock.now
        assert ask(site, "ann", "wrong") == 401
        costs.append(clock.now - before)
    assert costs == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    assert ask(site, "ann", "sesame") == 200
    before = clock.now
    assert ask(site, "ann", "wrong") == 401
    assert clock.now - before == 0.5, "the right password ends it"


def test_no_password_is_no_wrong_one(site, clock):
    assert {ask(site) for _ in range(50)} == {401}
    assert clock.now == Clock.now


def test_many_at_once_are_not_checked(site, clock, monkeypatch):
    async def stay(_seconds):
        """Return at once: the clock stands while others ask."""

    monkeypatch.setattr(auth.asyncio, "sleep", stay)
    assert ask(site, "ann", "wrong") == 401
    assert ask(site, "ann", "sesame") == 429, "nothing is checked while the wait lasts, not even the right one"
    assert ask(site, "bob", "open") == 429, "another account from the same client"
    assert ask(site, "ann", "sesame", client="10.0.0.2") == 429, "the same account from another client"
    assert ask(site, "bob", "open", client="10.0.0.2") == 200
    clock.now += 0.6
    assert ask(site, "ann", "sesame") == 200


def test_others_lock_nobody_out(site, monkeypatch):
    async def stay(_seconds):
        """Return at once."""

    assert ask(site, "ann", "sesame") == 200
    monkeypatch.setattr(auth.asyncio, "sleep", stay)
    assert ask(site, "ann", "wrong", client="10.6.6.6") == 401
    assert ask(site, "ann", "sesame", client="10.6.6.6") == 429
    assert ask(site, "ann", "sesame") == 200


def test_who_is_logged_in_does_not_reset_what_guessing_costs(site, clock):
    """An account's owner asks all the time, and so may a guesser who has an account of their own."""
    assert ask(site, "ann", "sesame") == 200
    assert ask(site, "bob", "open", client="10.6.6.6") == 200
    costs = []
    for _ in range(4):
        before = clock.now
        assert ask(site, "ann", "wrong", client="10.6.6.6") == 401
        costs.append(clock.now - before)
        assert ask(site, "ann", "sesame") == 200
        assert ask(site, "bob", "open", client="10.6.6.6") == 200
    assert costs == [0.5, 1, 2, 4]


def test_all_addresses_of_a_network_are_one_client(site, monkeypatch):
    async def stay(_seconds):
        """Return at once."""

    monkeypatch.setattr(auth.asyncio, "sleep", stay)
    assert ask(site, "eve", "x", client="2001:db8::1") == 401
    assert ask(site, "bob", "open", client="2001:db8::ffff") == 429


def test_memory_is_bounded():
    throttle = Throttle(most=100)
    for number in range(1000):
        throttle.failed(f"10.0.{number // 256}.{number % 256}", "x" * 10_000 + str(number))
    assert len(throttle) <= 100
