"""A server on this machine that speaks as much of Aliyun's ECS API (2014-05-26) as is used here."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

DRY_RUN = ("DryRunOperation", "Request validation has been passed with DryRun flag set.")


@dataclass
class Ecs:
    """`dry_run`: code and text that a dry run ends with; None: it makes an instance instead. `lost`: how many answers
    to creations do not arrive; `host`: the address of every instance; `colleague`: whether somebody else makes one of
    the same name at the same time."""

    address: str = ""
    host: str = "127.0.0.1"
    dry_run: tuple[str, str] | None = DRY_RUN
    lost: int = 0
    colleague: bool = False
    images: tuple[str, ...] = ("ubuntu_22_04_x64_20G_gpu_550_20260101.vhd", "ubuntu_24_04_x64_20G_20260901.vhd")
    stock: str = "Available"
    groups: tuple[str, ...] = ("sg-1",)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    instances: dict[str, dict[str, str]] = field(default_factory=dict)  # by the token of their creation

    def answer(self, action: str, asked: dict[str, str]) -> dict[str, Any]:
        """Raises `Refusal`, and `ConnectionAbortedError` for an answer that is lost."""
        if action == "DescribeImages":
            rows = [{"ImageId": f"m-{number}", "ImageName": name, "CreationTime": f"2026-01-{number + 10}T00:00:00Z"}
                    for number, name in enumerate(self.images)]  # fmt: skip
            return {"Images": {"Image": rows}}
        if action == "DescribeVSwitches":
            return {"VSwitches": {"VSwitch": [{"VSwitchId": "vsw-1", "VpcId": "vpc-1", "ZoneId": "cn-test-a"}]}}
        if action == "DescribeAvailableResource":
            return {"AvailableZones": {"AvailableZone": [{"ZoneId": "cn-test-a", "Status": self.stock}]}}
        if action == "DescribeSecurityGroups":
            found = [{"SecurityGroupId": each, "ServiceManaged": False} for each in self.groups]
            return {"SecurityGroups": {"SecurityGroup": found}}
        if action == "DescribePrice":
            return {"PriceInfo": {"Price": {"TradePrice": 9.5, "Currency": "CNY"}}}
        if action == "DescribeInstances":
            ours = [each for each in self.instances.values() if each["Tag.1.Value"] == asked["Tag.1.Value"]]
            return {"Instances": {"Instance": [self._row(each) for each in ours]}}
        if action == "DeleteInstance":
            self.instances = {k: v for k, v in self.instances.items() if v["InstanceId"] != asked["InstanceId"]}
            return {}
        assert action == "RunInstances", action
        return self._run(asked)

    def _row(self, made: dict[str, str]) -> dict[str, Any]:
        return {"InstanceId": made["InstanceId"], "Status": "Running", "AutoReleaseTime": made["AutoReleaseTime"],
                "PublicIpAddress": {"IpAddress": [self.host]}}  # fmt: skip

    def _run(self, asked: dict[str, str]) -> dict[str, Any]:
        if asked.get("DryRun", "").lower() == "true" and self.dry_run:
            raise Refusal(*self.dry_run)
        token = asked.get("ClientToken", "")
        if token not in self.instances:
            for each in (token, *(["theirs"] if self.colleague else ())):
                self.instances[each] = {**asked, "InstanceId": f"i-{len(self.instances) + 1}"}
        if self.lost:
            self.lost -= 1
            raise ConnectionAbortedError
        return {"InstanceIdSets": {"InstanceIdSet": [self.instances[token]["InstanceId"]]}}


class Refusal(Exception):
    pass


@contextlib.contextmanager
def serving() -> Iterator[Ecs]:
    ecs = Ecs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            query = urlsplit(self.path).query
            asked = {name: values[0] for name, values in parse_qs(f"{query}&{body}").items()}
            action = self.headers["x-acs-action"]
            ecs.asked.append((action, asked))
            ecs.headers.append(dict(self.headers))
            try:
                self._send(200, {"RequestId": "R", **ecs.answer(action, asked)})
            except Refusal as refusal:
                self._send(400, {"RequestId": "R", "Code": refusal.args[0], "Message": refusal.args[1]})
            except ConnectionAbortedError:
                self.close_connection = True

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        ecs.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield ecs
        finally:
            server.shutdown()
            thread.join()
