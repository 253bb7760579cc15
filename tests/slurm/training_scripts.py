"""Training scripts of four kinds of clusters, rendered for a plan of ten steps."""

from pathlib import Path

from pipeline.config.train import TrainConfig
from pipeline.plan.census import estimate_census
from pipeline.plan.run_plan import RunData, plan_run
from slurm.config import ClusterConfig, ContainerConfig
from slurm.container import launch
from slurm.plan import TrainPlan
from slurm.script import render_training

CLUSTERS = {
    "gpu": ClusterConfig(
        nodes=2,
        gpus_per_node=8,
        gpu_type="h100",
        cpus_per_task=8,
        memory_per_node_gb=480,
        time_limit="2-00:00:00",
        partition="gpu",
        account="it's ours",
        sbatch_options={"exclusive": True, "constraint": "a&b", "nice": 5},
        setup=["module load cuda", 'source "$HOME/venv/bin/activate"'],
        environment={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's; $HOME"},
    ),
    "cpu": ClusterConfig(
        nodes=2, gpus_per_node=0, tasks_per_node=2, cpus_per_task=1, time_limit="1:00:00", max_restarts=3
    ),
    "apptainer": ClusterConfig(
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=8,
        time_limit="12:00:00",
        container=ContainerConfig(runtime="apptainer", image="/images/foreword 1.sif", mounts=["/data:/data:ro"]),
        environment={"NCCL_DEBUG": "WARN"},
    ),
    "pyxis": ClusterConfig(
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=8,
        time_limit="12:00:00",
        container=ContainerConfig(runtime="pyxis", image="nvcr.io#nvidia/pytorch:25.06-py3", mounts=["/data"]),
        command=["python", "-m", "foreword"],
        environment={"NCCL_DEBUG": "WARN"},
    ),
}


def plan_for(cluster: ClusterConfig, run_dir: str = "/scratch/runs/first") -> TrainPlan:
    values = {
        "run_dir": "unused",
        "data": {"corpus": "unused"},
        "model": {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 1},
        "batch": {"global_batch_size": cluster.world_size, "micro_batch_size": 1},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 10},
    }
    config = TrainConfig.model_validate(values)
    data = RunData(32, 128, estimate_census(32, config), {}, {})
    return TrainPlan(
        nodes=cluster.nodes,
        processes_per_node=cluster.processes_per_node,
        gpus_per_node=cluster.gpus_per_node,
        run=plan_run(config, data, cluster.world_size),
        corpora=(Path("/scratch/corpus"),),
        run_dir=Path(run_dir),
        node_memory_bytes=10**9,
    )


def render(cluster: ClusterConfig, command: list[str] | None = None) -> str:
    working_directory = Path("/home/me/work dir")
    if cluster.container is None:
        cluster = cluster.model_copy(update={"command": command or ["/opt/venv/bin/python", "-m", "foreword"]})
    plan = plan_for(cluster)
    needed = [plan.run_dir, *plan.corpora]
    return render_training(
        plan,
        cluster,
        launch(cluster, working_directory, needed, OMP_NUM_THREADS=str(cluster.cpus_per_task)),
        arguments=[] if command else ["train", "/scratch/runs/first/slurm/train-ab12.yaml"],
        name="foreword-first",
        working_directory=working_directory,
    )
