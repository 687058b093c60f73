"""The dashboard's upper half: do the accelerators wait, and for whom?

GPU panels take NVIDIA's exporter as well as lakefeed's own sampler; that exporter renamed its label
`Hostname` to `hostname`, so both become `host`.
"""

from __future__ import annotations

from queries import Panel, Query, Row, host, quantiles, rate

READ = rate("lakefeed_io_read_bytes_total")
HITS = rate("lakefeed_cache_hits_total")
WAIT = rate("lakefeed_loader_wait_seconds_sum", "instance")
# Of a step's time; the gauge of that name is of the whole run.
STALL = f"{WAIT} / ({WAIT} + {rate('lakefeed_loader_step_seconds_sum', 'instance')})"

ROWS = (
    Row(
        "Do the accelerators wait?",
        (
            Panel(
                "GPU utilisation and read throughput",
                "short",
                (
                    Query(
                        f"avg by (host) ({host('DCGM_FI_DEV_GPU_UTIL')}) / 100", "GPU busy {{host}}"
                    ),
                    Query("avg(lakefeed_gpu_utilization_ratio)", "GPU busy, own sampler"),
                    Query(f"1 - avg({STALL})", "accelerator utilisation"),
                    Query(
                        f"{READ} / scalar(max_over_time({READ}[1h:1m]))",
                        "read, share of the hour's best",
                    ),
                ),
                "Utilisation low and reading at its best: the volume is the limit. Both low: the "
                "CPU or the model is. GPU busy only says that some kernel ran.",
                most=1,
            ),
            Panel(
                "Stall ratio",
                "percentunit",
                (
                    Query(STALL, "{{instance}}"),
                    Query("avg(lakefeed_loader_stall_ratio)", "of the whole run, mean"),
                ),
                "Share of the time that training waits for a batch; more than 10 % alerts.",
                most=1,
            ),
            Panel(
                "SM utilisation",
                "percentunit",
                (
                    Query(f"avg by (host) ({host('DCGM_FI_PROF_SM_ACTIVE')})", "{{host}}"),
                    Query("avg(lakefeed_gpu_sm_utilization_ratio)", "own sampler"),
                ),
                "Share of the multiprocessors that work: what GPU busy does not say.",
                most=1,
            ),
            Panel(
                "Power",
                "watt",
                (
                    Query(f"sum by (host) ({host('DCGM_FI_DEV_POWER_USAGE')})", "{{host}}"),
                    Query("sum(lakefeed_gpu_power_watts)", "own sampler"),
                ),
                "An accelerator that waits still draws a third or more of its power.",
            ),
        ),
    ),
    Row(
        "The feed",
        (
            Panel(
                "Samples a second",
                "ops",
                (
                    Query(
                        rate("lakefeed_loader_samples_total", "instance"),
                        "{{instance}}",
                    ),
                ),
                "Per rank. One that falls behind holds up all others.",
            ),
            Panel(
                "Delivered and read",
                "Bps",
                (
                    Query(
                        rate("lakefeed_loader_bytes_total"),
                        "delivered to training",
                    ),
                    Query(
                        rate("lakefeed_io_read_bytes_total", "tier"),
                        "read from {{tier}}",
                    ),
                ),
                "Read above delivered is read amplification; below, the node cache helps.",
            ),
            Panel(
                "Wait for a batch",
                "s",
                quantiles("lakefeed_loader_wait_seconds"),
                "p99 is what a step feels.",
            ),
            Panel(
                "Time by stage",
                "percentunit",
                (
                    Query(
                        rate("lakefeed_loader_stage_seconds_sum", "stage"),
                        "{{stage}}",
                    ),
                ),
                "Seconds of work a second, over all threads. The tallest stage is where to look.",
            ),
            Panel(
                "Reads of the volume",
                "s",
                quantiles("lakefeed_io_read_seconds"),
                "Latency of one read.",
            ),
            Panel(
                "Ready batches and reads in flight",
                "short",
                (
                    Query("lakefeed_loader_queue_depth", "ready {{instance}}"),
                    Query("lakefeed_loader_inflight_reads", "in flight {{instance}}"),
                ),
                "A ready queue that is always empty means that training outruns the feed.",
            ),
            Panel(
                "Read amplification",
                "short",
                (Query("lakefeed_io_read_amplification_ratio", "{{instance}}"),),
                "Bytes read for each byte delivered.",
            ),
            Panel(
                "Node cache hits",
                "percentunit",
                (
                    Query(
                        f"{HITS} / ({HITS} + {rate('lakefeed_cache_misses_total')})",
                        "hits",
                    ),
                ),
                "From the second epoch on this should be near 100 % if the data fits.",
                most=1,
            ),
            Panel(
                "Retries and corrupt samples",
                "ops",
                (
                    Query(
                        rate("lakefeed_loader_retries_total", "reason"),
                        "retry: {{reason}}",
                    ),
                    Query(
                        rate("lakefeed_loader_corrupt_samples_total"),
                        "corrupt",
                    ),
                ),
                "Both are zero on a healthy volume.",
            ),
        ),
    ),
)
