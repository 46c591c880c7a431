"""The types of configuration keys that name machines: where to listen, and whom to believe."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([\w-]{0,62})(\.[A-Za-z0-9_][\w-]{0,62})*\.?", re.A)


def _host(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not NAME.fullmatch(host):
            raise ValueError("an address or a host's name.") from None
    return host


def _proxy(proxy: str) -> str:
    """Refuse what would let anybody say who they are: any address, as a pattern or a network."""
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError:
        network = None
    if network is None or (network.num_addresses > 1 and not network.is_private):
        raise ValueError("the proxy's address, or a network of private addresses.")
    return proxy


Host = Annotated[str, AfterValidator(_host)]
Proxy = Annotated[str, AfterValidator(_proxy)]
