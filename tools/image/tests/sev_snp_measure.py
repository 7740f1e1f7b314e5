"""Asks PyPI's sev-snp-measure for launch digests.

Reads {"launches": [{"firmware", "kernel", "initrd" or null, "command_line", "vcpu_type", "vcpus", "features"}]} on
stdin; prints the digests in hex, in the same order.
"""

import json
import sys

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode


def digest(launch: dict) -> str:
    return guest.calc_launch_digest(
        SevMode.SEV_SNP,
        launch["vcpus"],
        vcpu_types.CPU_SIGS[launch["vcpu_type"]],
        launch["firmware"],
        launch["kernel"],
        launch["initrd"],
        launch["command_line"],
        launch["features"],
    ).hex()


json.dump([digest(launch) for launch in json.load(sys.stdin)["launches"]], sys.stdout)
