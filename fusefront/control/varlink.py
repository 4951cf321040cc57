"""The Varlink protocol over a stream socket: messages, and the interface that describes the others.

A message is a JSON object that ends with a NUL byte (varlink.org/Method-Call).  A call that asks for ``more`` may be
answered several times, each answer but the last one with ``continues``; a ``oneway`` call is not answered.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SERVICE = "org.varlink.service"
LONGEST = 1 << 20  # bytes of one message that is received

Answer = dict[str, Any]
Method = Callable[[Mapping[str, Any]], Awaitable[Answer]]

_SERVICE_TEXT = """\
# The Varlink service interface is provided by every varlink service.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
"""


class VarlinkError(Exception):
    """An answer that says that a call failed.

    Args:
        name: the error with its interface, for example ``org.varlink.service.MethodNotFound``.
        parameters: what the interface says about it.
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


@dataclass
class Service:
    """Interfaces and their methods.

    Attributes:
        version: of the program.
        descriptions: the text of each interface by its name.
        methods: what answers each method, by its full name.
    """

    version: str
    descriptions: dict[str, str] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.descriptions[SERVICE] = _SERVICE_TEXT
        self.methods[SERVICE + ".GetInfo"] = self._info
        self.methods[SERVICE + ".GetInterfaceDescription"] = self._description

    async def _info(self, parameters: Mapping[str, Any]) -> Answer:
        return {
            "vendor": "minifo",
            "product": "minifo",
            "version": self.version,
            "url": "",
            "interfaces": list(self.descriptions),
        }

    async def _description(self, parameters: Mapping[str, Any]) -> Answer:
        name = parameters.get("interface")
        if not isinstance(name, str):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="interface")
        if name not in self.descriptions:
            raise VarlinkError(SERVICE + ".InterfaceNotFound", interface=name)
        return {"description": self.descriptions[name]}

    async def answer(self, message: bytes) -> bytes | None:
        """Return the answer to one message, or None where the caller wants none.

        Raises:
            ValueError: the message is not a call; the connection should be closed.
        """
        call = json.loads(message)
        if not isinstance(call, dict) or not isinstance(call.get("method"), str):
            raise ValueError("not a call")
        name, parameters = call["method"], call.get("parameters") or {}
        try:
            if not isinstance(parameters, dict):
                raise VarlinkError(SERVICE + ".InvalidParameter", parameter="parameters")
            method = self.methods.get(name)
            if method is None:
                interface = name.rpartition(".")[0]
                if interface not in self.descriptions:
                    raise VarlinkError(SERVICE + ".InterfaceNotFound", interface=interface)
                raise VarlinkError(SERVICE + ".MethodNotFound", method=name)
            reply: dict[str, Any] = {"parameters": await method(parameters)}
        except VarlinkError as error:
            reply = {"error": error.name, "parameters": error.parameters}
        return None if call.get("oneway") else encode(reply)


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message).encode() + b"\0"


async def messages(receive: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """Yield the messages of a connection, without the NUL, until it ends.

    Args:
        receive: returns some bytes, none at the end.

    Raises:
        ValueError: a message is longer than ``LONGEST``.
    """
    buffer = bytearray()
    while data := await receive():
        buffer += data
        while (end := buffer.find(b"\0")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
        if len(buffer) > LONGEST:
            raise ValueError("a message without end")
