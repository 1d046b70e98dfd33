from __future__ import annotations

import pytest

from slurm import profile_file
from slurm.errors import ClusterError
from slurm.profile import ClusterProfile
from slurm.profile_file import load_profile, profile_names


def write(folder, text):
    path = folder / "site.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["local", "slurm", "dev"])
def test_built_in_profiles_load(name):
    assert load_profile(name).name == name


def test_the_users_own_profile_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "harness" / "clusters"
    folder.mkdir(parents=True)
    (folder / "dev.yaml").write_text("executor: slurm\npartition: mine\n")
    assert load_profile("dev").partition == "mine"
    (folder / "home.yaml").write_text("executor: local\n")
    assert "home" in profile_names()


def test_what_a_profile_leaves_to_the_site_is_what_sbatch_is_told_by_its_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    monkeypatch.setenv("SBATCH_PARTITION", "debug")
    profile = load_profile(write(tmp_path, "executor: slurm\npartition: gpu\naccount: null\n"))
    assert (profile.account, profile.partition, profile.qos) == ("lab", "gpu", None)
    assert load_profile(write(tmp_path, "executor: local\n")).account is None


def test_auto_is_local_where_no_controller_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_profile("auto").executor == "local"


def test_auto_is_slurm_where_a_controller_answers(monkeypatch, tmp_path):
    for name, code in (("sbatch", 0), ("sinfo", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_profile("auto").executor == "slurm"
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    assert load_profile("auto").executor == "local"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("executor: slurm\npartitoin: gpu\n", "unknown key 'partitoin'; did you mean 'partition'?"),
        (
            "nodes: two\n",
            "key 'nodes': input should be a valid integer, unable to parse string as an integer, got 'two'",
        ),
        ("nodes: yes\n", "key 'nodes': input should be a valid integer"),
        ("memory_gb: off\n", "key 'memory_gb': input should be a valid number"),
        ("nodes: 1\nname: a\nnodes: 2\n", "'nodes' is a key at line 3 for the second time; leave one of them out."),
        ("environment: {A: x, B: y, A: z}\n", "'A' is a key at line 1 for the second time"),
        ("executor: slurm\npartition: 'gpu; rm -rf /'\n", "key 'partition': string should match pattern"),
        ("executor: slurm\nsetup: ['module load cuda', \"a\\nb\"]\n", "key 'setup.1': has a line break"),
        ("executor: slurm\nsetup: ['export WANDB_API_KEY=123']\n", "'WANDB_API_KEY=' looks like a secret"),
        ("executor: slurm\nenvironment: {'A B': x}\n", "'A B' cannot be a variable's name"),
        ("executor: slurm\noptions: {partition: gpu}\n", "sbatch option 'partition' is set by the launcher"),
        ("executor: slurm\noptions: {'mail type': END}\n", "'mail type' is not the long name of an sbatch option"),
        ("executor: slurm\ngpus_per_node: 4\ntasks_per_node: 2\n", "a task has one GPU; leave tasks_per_node out"),
        ("executor: slurm\ngpu_type: a100\n", "gpu_type a100 without gpus_per_node"),
        ("executor: slurm\ngpus_per_node: 2\ngpu_type: 'gpu:a100'\n", "key 'gpu_type': string should match pattern"),
        ("gpus_per_node: 2\ngpu_type: a100\n", "gpu_type is for SLURM alone"),
        ("executor: local\nnodes: 2\n", "nodes 2 with executor local; use nodes 1, or executor slurm"),
        ("partition: gpu\n", "partition is for SLURM alone; write executor: slurm, or leave it out"),
        ("executor: local\nsetup: [module load cuda]\n", "setup is for SLURM alone"),
        ("executor: slurm\ntime_min: 1\n", "signal_s 90 is not before the time limit of 1 min; lower it"),
        ("- a\n", "expected keys and values"),
        ("a: [\n", "is not valid YAML at line 2"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(ClusterError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_environment_never_shows_its_value(tmp_path):
    with pytest.raises(ClusterError) as caught:
        load_profile(write(tmp_path, "environment: {TOKEN: [hunter2]}\n"))
    assert "hunter2" not in str(caught.value)


def test_a_value_that_is_taken_for_an_alias_is_not_shown(tmp_path):
    with pytest.raises(ClusterError, match="is not valid YAML at line 2") as caught:
        load_profile(write(tmp_path, "environment:\n  TOKEN: *hunter2\n"))
    assert "hunter2" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ClusterError, match="did you mean 'local'"):
        load_profile("loacl")


def test_one_task_a_gpu():
    assert ClusterProfile(executor="slurm", nodes=3, gpus_per_node=4).world_size == 12
    assert ClusterProfile(tasks_per_node=2).world_size == 2


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max_parallel: 2", 4),
        ("{max_parallel: 2, tasks_per_node: 2}", 2),
        ("max_parallel: 20", 1),
        ("{max_parallel: 2, cpus_per_task: 3}", 3),
        ("{executor: slurm, max_parallel: 2}", 1),
    ],
)
def test_jobs_here_share_the_cores_out_where_a_profile_does_not_say(tmp_path, monkeypatch, text, cpus):
    monkeypatch.setattr(profile_file, "_num_cores", lambda: 8)
    assert load_profile(write(tmp_path, text)).cpus_per_task == cpus
