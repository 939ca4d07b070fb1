import subprocess
import sys


def test_packing_and_jsonl_need_nothing_optional():
    code = """
import sys
sys.modules.update(dict.fromkeys(["tensorflow_datasets", "grain", "tokenizers", "tensorflow"]))  # importing one fails
from rlhf_jax import data
data.pack, data.pad, data.plan, data.read_jsonl, data.write_jsonl, data.parse_comparison, data.DataError, data.hutto
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    from rlhf_jax import data, feedback

    for package in (data, feedback):
        for name in package.__all__:
            assert getattr(package, name) is not None
