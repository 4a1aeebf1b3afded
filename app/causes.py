"""What is behind an error, and what to do next: for those that people meet, by what their texts say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.texts import tr


@dataclass(frozen=True)
class Cause:
    """`pattern` is found in `CLASS: TEXT` of an error, whatever its letters' case."""

    name: str
    pattern: str
    text: str
    fix: str


def of(error: str, text: str) -> Cause | None:
    """The likely cause of an error, by its class (may be empty) and what it says; None if it is not known."""
    said = f"{error}: {text}"
    return next((cause for cause in known() if re.search(cause.pattern, said, re.IGNORECASE)), None)


def known() -> tuple[Cause, ...]:
    """All of them, in the language being spoken; the more special ones first, since texts quote each other."""
    return (
        Cause(
            "driver too old",
            r"driver version is insufficient|NVIDIA driver on your system is too old|driver/library version mismatch",
            tr("the NVIDIA driver is older than the CUDA of this torch"),
            tr("update the driver, or take a build for an older CUDA: python3 tasks.py setup --profile cuda12"),
        ),
        Cause(
            "wrong card",
            r"no kernel image is available|is not compatible with the current PyTorch|does not run on its architecture",
            tr("this build of torch has no code for this card"),
            tr("take another build: python3 tasks.py setup --profile cuda12, cuda13 or cpu"),
        ),
        Cause(
            "no card",
            r"no CUDA-capable device|Found no NVIDIA driver|CUDA unknown error|no CUDA GPUs are available|libcuda\.so",
            tr("the card cannot be reached: no driver, or a container that was started without it"),
            tr("python -m app doctor says which; docker run --gpus all …"),
        ),
        Cause(
            "card full",
            r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
            tr("the memory of the card is full"),
            tr("fewer frames or a smaller size; nvidia-smi shows which other programs hold some"),
        ),
        Cause(
            "card failed",
            r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert|illegal memory access|\bXid\b|\bECC\b"
            r"|GPU is lost",
            tr("the card or its driver failed in the middle of the work"),
            tr("start the app again; if it comes back, look for Xid in dmesg, and at nvidia-smi"),
        ),
        Cause(
            "weights damaged",
            r"SafetensorError|HeaderTooLarge|HeaderTooSmall|InvalidHeader|MetadataIncompleteBuffer|size mismatch for",
            tr("a file of the weights is damaged or of another model"),
            tr("python3 tasks.py verify --model NAME, then fetch NAME; in an image: python -m app verify"),
        ),
        Cause(
            "weights missing",
            r"WeightsMissing|no file named .*(safetensors|bin)|model_index\.json|does not appear to have a file named",
            tr("the weights of the model are not, or not all, in the folder of the models"),
            tr("python3 tasks.py fetch NAME; python -m app doctor shows what is missing"),
        ),
        Cause(
            "disk full",
            r"No space left on device|Errno 28\b|Disk quota exceeded|Errno 122\b|database or disk is full",
            tr("the disk is full"),
            tr("delete videos that nobody needs, or put them on another disk: JINGXIANG_OUTPUTS"),
        ),
        Cause(
            "read-only",
            r"Read-only file system|Errno 30\b|readonly database",
            tr("the folder cannot be written: it is mounted read-only"),
            tr("mount a folder of your own for the videos: docker run -v FOLDER:/outputs …"),
        ),
        Cause(
            "permission",
            r"Permission denied|PermissionError|Errno 13\b|Operation not permitted",
            tr("the user that the app runs as may not do that"),
            tr("give the folder to that user; with docker: --user $(id -u):$(id -g)"),
        ),
        Cause(
            "port taken",
            r"PortTaken|Address already in use|Errno 98\b",
            tr("another program, or another copy of the app, listens on the port"),
            tr("end it, or take another one: --port 0 picks a free one"),
        ),
        Cause(
            "database locked",
            r"database is locked|database table is locked",
            tr("another process has the job store for itself, or it is on a network disk"),
            tr("end other copies of the app; put the job store on a local disk, or use PostgreSQL"),
        ),
        Cause(
            "database damaged",
            r"database disk image is malformed|file is not a database",
            tr("the file of the job store is damaged"),
            tr("stop the app and move the file away: a new one is made, and the videos stay"),
        ),
        Cause(
            "database away",
            r"psycopg\.OperationalError|connection to server .* failed|server closed the connection unexpectedly"
            r"|terminating connection due to administrator",
            tr("the database server of the job store does not answer"),
            tr("see that PostgreSQL runs and can be reached from here; the app goes on when it is back"),
        ),
        Cause(
            "memory full",
            r"worker was killed|工作进程被终止|(exit code|退出码) (-9|137)\b|SIGKILL|MemoryError|Errno 12\b"
            r"|Cannot allocate memory|can't allocate memory|DefaultCPUAllocator",
            tr("the machine or the container ran out of memory, and the system ended the process"),
            tr("a smaller model or size, or more memory: docker run --memory; dmesg names what was ended"),
        ),
        Cause(
            "crashed",
            r"(exit code|退出码) (-11|-6|-7|-4|139|134|135|132)\b|SIGSEGV|SIGBUS|Bus error",
            tr("a library crashed: most often damaged files, a full /dev/shm, or the driver"),
            tr("python3 tasks.py verify compares all files; in a container, try --shm-size 1g"),
        ),
        Cause(
            "no picture",
            r"BrokenOutput|gave no picture|all black",
            tr("the numbers of the model ran out of their range (half precision) or the settings do not suit it"),
            tr("another seed, fewer steps or less guidance; if it is always so, bf16 or fp32"),
        ),
        Cause(
            "certificate",
            r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|unable to get local issuer",
            tr("something between here and the server shows a certificate that this machine does not know"),
            tr("name the CA of your network: SSL_CERT_FILE=FILE"),
        ),
        Cause(
            "proxy",
            r"ProxyError|Tunnel connection failed|Proxy Authentication Required|Cannot connect to proxy"
            r"|Unknown scheme for proxy|socksio",
            tr("the proxy cannot be reached, or does not let it through"),
            tr("check HTTPS_PROXY and HTTP_PROXY; for addresses of your own network, add them to NO_PROXY"),
        ),
        Cause(
            "network",
            r"Name or service not known|Temporary failure in name resolution|Network is unreachable|Connection refused"
            r"|Connection reset by peer|No route to host|EndpointConnectionError",
            tr("another machine cannot be reached, or refuses"),
            tr("check its address and the network; once it can be reached, try again"),
        ),
        Cause(
            "too many files",
            r"Too many open files|Errno 24\b",
            tr("the process may not open more files"),
            tr("raise the limit: ulimit -n 65536, or docker run --ulimit nofile=65536"),
        ),
    )
