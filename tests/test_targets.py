"""jingxiang.targets"""

from __future__ import annotations

import pytest

from jingxiang import targets
from jingxiang.errors import UsageError
from jingxiang.targets import AliyunTarget, KubernetesTarget, SkyTarget, SshEnvTarget, SshTarget, Target

ARN = "arn:aws:eks:us-east-1:111122223333:cluster/videos"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("ssh://gpu-1", SshTarget("gpu-1")),
        ("ssh://ubuntu@203.0.113.7", SshTarget("203.0.113.7", "ubuntu")),
        ("ssh://root@gpu-1:2222", SshTarget("gpu-1", "root", 2222)),
        ("ssh://[2001:db8::7]", SshTarget("2001:db8::7")),
        ("ssh://root@[fe80::1%eth0]:22", SshTarget("fe80::1%eth0", "root", 22)),
        ("ssh+env://root@connect.example:31022", SshEnvTarget("connect.example", "root", 31022)),
        ("k8s://prod/video", KubernetesTarget("prod", "video")),
        ("k8s://kubernetes-admin@kubernetes/video", KubernetesTarget("kubernetes-admin@kubernetes", "video")),
        (f"k8s://{ARN}/video?gpus=4", KubernetesTarget(ARN, "video", 4)),
        (
            "k8s://prod/video?gpus=2&media=oss://bucket/videos&storage=nas.cn&pull=acr"
            "&database=hub.example/postgres:17",
            KubernetesTarget("prod", "video", 2, "oss://bucket/videos", "nas.cn", "acr", "hub.example/postgres:17"),
        ),
        ("sky://runpod", SkyTarget("runpod", "A100:1", 1)),
        ("sky://aws/us-east-1?gpu=L4", SkyTarget("aws/us-east-1", "L4:1")),
        (
            "sky://k8s/ctx?gpu=A100-80GB:2&replicas=2&most=4&qps=3&media=s3://b",
            SkyTarget("k8s/ctx", "A100-80GB:2", 2, 4, 3, "s3://b"),
        ),
        (
            "aliyun://cn-hangzhou/ecs.gn7i-c8g1.2xlarge",
            AliyunTarget("cn-hangzhou", "ecs.gn7i-c8g1.2xlarge", spot=False, hours=24, disk_gb=200),
        ),
        (
            "aliyun://ap-southeast-1/ecs.gn6i-c4g1.xlarge?spot=1&hours=2&disk=100&key=mine&image=m-1&group=sg-1&switch=vsw-1",
            AliyunTarget(
                "ap-southeast-1", "ecs.gn6i-c4g1.xlarge", True, 2, 100, "mine", "m-1", "sg-1", "vsw-1"
            ),
        ),
    ],
)  # fmt: skip
def test_what_an_address_names(address: str, found: Target) -> None:
    assert targets.parse(address) == found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "gpu-1",
            "gpu-1: should be one of ssh://[USER@]HOST[:PORT], ssh+env://[USER@]HOST[:PORT], "
            "k8s://CONTEXT/NAMESPACE[?gpus=N], sky://INFRA[?gpu=A100:1&replicas=2], "
            "aliyun://REGION/INSTANCE-TYPE[?spot=1]",
        ),
        (
            "k9s://prod/video",
            "k9s://prod/video: no kind of target named 'k9s'; there is aliyun, k8s, sky, ssh, ssh+env (did you mean "
            "'k8s'?)",
        ),
        ("ssh://", "ssh://: the host is missing; it should be ssh://[USER@]HOST[:PORT]"),
        ("ssh://@gpu", "ssh://@gpu: the user name is missing; it should be ssh://[USER@]HOST[:PORT]"),
        ("ssh://gpu 1", "ssh://gpu 1: holds a space or a character that cannot be seen"),
        ("ssh://gpu%0a1", "ssh://gpu%0a1: holds a space or a character that cannot be seen"),
        ("ssh://gpu/1", "ssh://gpu/1: the host: 'gpu/1' is no such name"),
        ("ssh://gpu;id", "ssh://gpu;id: the host: 'gpu;id' is no such name"),
        ("ssh://gpu:0", "ssh://gpu:0: the port: '0' should be a whole number from 1 to 65535"),
        ("ssh://gpu:", "ssh://gpu:: the port: '' should be a whole number from 1 to 65535"),
        ("ssh://gpu:٢٢", "ssh://gpu:٢٢: the port: '٢٢' should be a whole number from 1 to 65535"),
        ("ssh://gpu?gpus=2", "ssh://gpu?gpus=2: takes no option after a ?"),
        (
            "ssh://root:hunter2@gpu",
            "ssh://…@gpu: holds a password, but ssh is used with keys alone: ssh-copy-id USER@HOST",
        ),
        ("k8s://prod", "k8s://prod: the context is missing; it should be k8s://CONTEXT/NAMESPACE[?gpus=N]"),
        ("k8s://prod/", "k8s://prod/: the namespace is missing; it should be k8s://CONTEXT/NAMESPACE[?gpus=N]"),
        ("k8s://prod/Video", "k8s://prod/Video: the namespace: 'Video' is no such name"),
        ("k8s://a/b?gpus=0", "k8s://a/b?gpus=0: gpus: '0' should be a whole number from 1 to 100"),
        ("k8s://a/b?gpus=1&gpus=2", "k8s://a/b?gpus=1&gpus=2: gpus is there twice"),
        (
            "k8s://a/b?gpu=2",
            "k8s://a/b?gpu=2: no option named 'gpu'; there is database, gpus, media, pull, storage (did you mean "
            "'gpus'?)",
        ),
        (
            "k8s://a/b?media=/mnt",
            "k8s://a/b?media=/mnt: media: '/mnt' should be s3://BUCKET/FOLDER or oss://BUCKET/FOLDER",
        ),
        ("sky://aws?gpu=", "sky://aws?gpu=: gpu: '' should be NAME or NAME:COUNT, such as A100:1"),
        ("sky://aws?gpu=A100:0", "sky://aws?gpu=A100:0: gpu: 'A100:0' should be NAME or NAME:COUNT, such as A100:1"),
        ("sky://aws?replicas=3&most=2", "sky://aws?replicas=3&most=2: most: 2 is less than replicas: 3"),
        ("sky://aws?most=2", "sky://aws?most=2: most and qps, requests a second for each replica, come together"),
        (
            "aliyun://cn-hangzhou",
            "aliyun://cn-hangzhou: the instance type is missing; it should be aliyun://REGION/INSTANCE-TYPE[?spot=1]",
        ),
        ("aliyun://cn-hangzhou/gn7i", "aliyun://cn-hangzhou/gn7i: the instance type: 'gn7i' is no such name"),
        (
            "aliyun://cn-hangzhou/ecs.gn7i.large?spot=yes",
            "aliyun://cn-hangzhou/ecs.gn7i.large?spot=yes: spot: 'yes' should be 0 or 1",
        ),
        (
            "aliyun://cn-hangzhou/ecs.gn7i.large?disk=10",
            "aliyun://cn-hangzhou/ecs.gn7i.large?disk=10: disk: '10' should be a whole number from 40 to 2048",
        ),
    ],
)
def test_what_is_wrong_with_an_address(address: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.parse(address)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "address",
    [
        "ssh://-oProxyCommand=id", "ssh://-oProxyCommand=id@gpu", "ssh://root@-oProxyCommand=id", "ssh+env://-v@gpu",
        "k8s://-x/video", "k8s://prod/-x", "k8s://prod/video?pull=-x", "sky://-x", "aliyun://-x/ecs.gn7i.large",
        "aliyun://cn-hangzhou/-x", "aliyun://cn-hangzhou/ecs.gn7i.large?key=-x",
    ],
)  # fmt: skip
def test_no_part_can_be_taken_for_an_option(address: str) -> None:
    with pytest.raises(UsageError, match="begins with a dash: it would be taken for an option"):
        targets.parse(address)
