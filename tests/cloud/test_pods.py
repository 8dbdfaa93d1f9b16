"""What a machine's pod is, by its template and its name."""

from __future__ import annotations

import pytest

from twinstep.cloud import pods


def test_a_template_keeps_its_own_affinity() -> None:
    own = {
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [1]}, {"matchFields": [2]}]
            }
        },
    }
    template = {"spec": {"affinity": own, "containers": []}}
    made = pods.pod_for(
        template, job="j", request="r", reason="", role="trains", avoid=["n1"]
    )
    affinity = made["spec"]["affinity"]
    assert affinity["podAntiAffinity"] == own["podAntiAffinity"]
    bad = {"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}
    assert affinity["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ] == {
        "nodeSelectorTerms": [
            {"matchExpressions": [1], "matchFields": [bad]},
            {"matchFields": [2, bad]},
        ]
    }
    assert template == {"spec": {"affinity": own, "containers": []}}


@pytest.mark.parametrize("job", ["run-7", "Run.7_x", "a" * 63, "-"])
def test_names_of_pods_are_names(job: str) -> None:
    lost = pods.pod_name(job, "0")
    names = {lost}
    for _ in range(50):  # a machine lost again and again
        lost = pods.pod_name(job, f"for-{lost}")
        assert lost not in names and len(lost) <= 63
        assert lost.replace("-", "").isalnum() and lost == lost.lower()
        assert lost[0].isalnum() and lost[-1].isalnum()
        names.add(lost)
