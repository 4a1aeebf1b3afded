"""Talk to Aliyun. A program for a Python that has its SDK; see `remotes.sdk`.

The JSON object on stdin has `action` (one of `ACTIONS`), `region`, `endpoint` (HOST:PORT of another server over plain
HTTP, or "") and what that action takes. Credentials come from the SDK's own chain and are in no event.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException, ServerException
from alibabacloud_tea_openapi.utils_models import Config
from Tea.exceptions import TeaException

from jingxiang.remotes.client import Problem, main, say, tell, undisturbed

TAG = "jingxiang"
POLL_S = 3.0
START_S = 600  # until a new instance runs and has an address
TRIES = 4  # of the same creation, with the same token, where the answer was lost
MBIT = 100  # the most that the instance sends, paid by what it sends
DISK = "cloud_essd"
PASSED = "DryRunOperation"  # the only code that says so
LOST = (TeaException, requests.RequestException)  # whatever the SDK raises where no answer came, and for those that did


def find(client: Client, region: str, *, name: str) -> None:
    """Our instance there, by its tag. Raises `Problem` where there are several."""
    say("result", **(only(found(client, region, name)) or {"id": ""}))


def prepare(client: Client, region: str, *, wanted: Mapping[str, Any]) -> None:
    """Find what was not given, ask for the price, and try it without doing it."""
    order = {**wanted, **chosen(client, region, wanted)}
    price = client.describe_price(models.DescribePriceRequest(
        region_id=region, resource_type="instance", instance_type=order["type"], price_unit="Hour", period=1,
        amount=1, spot_strategy=spot(order), image_id=order["image"],
        internet_charge_type="PayByTraffic", internet_max_bandwidth_out=MBIT,
        system_disk=models.DescribePriceRequestSystemDisk(category=DISK, size=order["disk_gb"]),
    )).body.price_info.price  # fmt: skip
    try_out(client, region, order)
    say("result", order=order, price=price.trade_price, currency=price.currency)


def create(client: Client, region: str, *, order: Mapping[str, Any], token: str) -> None:
    """Make the instance, and wait for its address. Raises `Problem` if somebody else has made one meanwhile, too."""
    with undisturbed():  # whoever ends us is to know what there is now
        instance = made(client, request(region, order, token=token))
        tell("made", id=instance)
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        now = only(found(client, region, order["name"]))
        if now and now["state"] == "Running" and now["address"]:
            say("result", **now)
            return
        time.sleep(POLL_S)
    raise Problem("slow", text=instance)


def made(client: Client, asked: Any) -> str:
    """The id. Asked again with the same token, Aliyun makes no second one. Raises `Problem` (lost) where whether there
    is one is not known in the end."""
    error: Exception | None = None
    for _ in range(TRIES):
        try:
            (instance,) = client.run_instances(asked).body.instance_id_sets.instance_id_set
            return str(instance)
        except LOST as lost:
            is_answer = isinstance(lost, AlibabaCloudException) and not isinstance(lost, ServerException)
            if is_answer and error is None:  # refused, and none was lost before
                raise
            error = lost
        time.sleep(POLL_S)
    raise Problem("lost", text=one_line(error))


def release(client: Client, region: str, *, name: str) -> None:
    """All instances of that name with their disks. Gives their ids."""
    ids = [each["id"] for each in found(client, region, name)]
    for each in ids:
        client.delete_instance(models.DeleteInstanceRequest(instance_id=each, force=True))
    say("result", ids=ids)


def try_out(client: Client, region: str, order: Mapping[str, Any]) -> None:
    """A dry run: an error by design. Whatever else is answered, an instance above all, is a problem."""
    try:
        made = client.run_instances(request(region, order, is_dry=True))
    except AlibabaCloudException as error:
        if error.code == PASSED:
            return
        raise
    sets = made.body.instance_id_sets
    raise Problem("made", text=", ".join(sets.instance_id_set or ()) if sets else "")


def request(region: str, order: Mapping[str, Any], *, is_dry: bool = False, token: str = "") -> Any:
    script = base64.b64encode(order["script"].encode()).decode()
    return models.RunInstancesRequest(
        region_id=region, dry_run=is_dry, client_token=token or None, amount=1, min_amount=1,
        instance_type=order["type"], image_id=order["image"], v_switch_id=order["switch"],
        security_group_id=order["group"], instance_name=TAG, key_pair_name=order["key"] or None,
        spot_strategy=spot(order), instance_charge_type="PostPaid", auto_release_time=order["until"],
        internet_charge_type="PayByTraffic", internet_max_bandwidth_out=MBIT, user_data=script,
        system_disk=models.RunInstancesRequestSystemDisk(category=DISK, size=str(order["disk_gb"])),
        tag=[models.RunInstancesRequestTag(key=TAG, value=order["name"])],
    )  # fmt: skip


def spot(order: Mapping[str, Any]) -> str:
    return "SpotAsPriceGo" if order["spot"] else "NoSpot"


def chosen(client: Client, region: str, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Image, vSwitch and security group: as asked for, else the first that fit. Raises `Problem`."""
    image = wanted["image"] or newest_image(client, region, wanted["type"])
    switches = client.describe_vswitches(
        models.DescribeVSwitchesRequest(region_id=region, v_switch_id=wanted["switch"] or None, page_size=50)
    ).body.v_switches.v_switch
    zones = zones_with_stock(client, region, wanted)
    fitting = [each for each in switches if each.zone_id in zones]
    if not fitting:
        raise Problem("switch" if zones else "stock", text=", ".join(sorted(zones)))
    switch = fitting[0]
    if group := wanted["group"]:
        return {"image": image, "switch": switch.v_switch_id, "group": group}
    groups = client.describe_security_groups(
        models.DescribeSecurityGroupsRequest(region_id=region, vpc_id=switch.vpc_id, page_size=50)
    ).body.security_groups.security_group
    ours = [each.security_group_id for each in groups if not each.service_managed]
    if not ours:
        raise Problem("group", text=str(switch.vpc_id))
    return {"image": image, "switch": switch.v_switch_id, "group": ours[0]}


def newest_image(client: Client, region: str, instance_type: str) -> str:
    """Aliyun's own newest Ubuntu that brings NVIDIA's driver."""
    images = client.describe_images(models.DescribeImagesRequest(
        region_id=region, image_owner_alias="system", ostype="linux", architecture="x86_64", status="Available",
        instance_type=instance_type, page_size=100,
    )).body.images.image  # fmt: skip
    fitting = [each for each in images if "ubuntu" in each.image_name.lower() and "gpu" in each.image_name.lower()]
    if not fitting:
        raise Problem("image", text=instance_type)
    return str(max(fitting, key=lambda each: each.creation_time).image_id)


def zones_with_stock(client: Client, region: str, wanted: Mapping[str, Any]) -> set[str]:
    body = client.describe_available_resource(models.DescribeAvailableResourceRequest(
        region_id=region, destination_resource="InstanceType", instance_type=wanted["type"],
        spot_strategy=spot(wanted), instance_charge_type="PostPaid",
    )).body  # fmt: skip
    zones = body.available_zones.available_zone if body.available_zones else []
    return {each.zone_id for each in zones or () if each.status == "Available"}


def found(client: Client, region: str, name: str) -> list[dict[str, str]]:
    """Our instances of that name, by their tag."""
    instances = client.describe_instances(models.DescribeInstancesRequest(
        region_id=region, tag=[models.DescribeInstancesRequestTag(key=TAG, value=name)], page_size=100,
    )).body.instances.instance  # fmt: skip
    return [
        {
            "id": each.instance_id, "state": each.status, "until": each.auto_release_time or "",
            "address": ((each.public_ip_address.ip_address if each.public_ip_address else None) or [""])[0],
        }
        for each in instances or ()
    ]  # fmt: skip


def only(instances: list[dict[str, str]]) -> dict[str, str] | None:
    """Two who deploy at once may have made one each, and each costs money. Raises `Problem`."""
    if len(instances) > 1:
        raise Problem("several", text=", ".join(sorted(each["id"] for each in instances)))
    return instances[0] if instances else None


def one_line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:300]


def open_client(region: str, endpoint: str) -> Client:
    elsewhere = {"endpoint": endpoint, "protocol": "http"} if endpoint else {}
    credentials = Credentials()
    try:
        credentials.get_credential()
    except (CredentialException, TeaException) as error:
        raise Problem("credentials") from error
    return Client(Config(credential=credentials, region_id=region, **elsewhere))


ACTIONS: dict[str, Callable[..., None]] = {"find": find, "prepare": prepare, "create": create, "release": release}


@contextlib.contextmanager
def region(job: dict[str, Any]) -> Iterator[tuple[Client, str]]:
    yield open_client(job["region"], job.pop("endpoint")), job.pop("region")


def told(error: Exception) -> Problem | None:
    if isinstance(error, AlibabaCloudException):
        return Problem("refused", code=error.code, text=error.message)
    if isinstance(error, LOST):
        return Problem("unreachable", text=one_line(error))
    return None


if __name__ == "__main__":
    main(ACTIONS, region, told)
