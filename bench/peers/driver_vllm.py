# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU build in this process, stepped by hand; bf16 weights as bf16_weights.py makes them.

Usage: driver_vllm.py DIRECTORY THREADS     (needs AVX-512)
"""

import os
import sys

THREADS = int(sys.argv[2])
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{THREADS - 1}")
os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import protocol


class Vllm:
    name = "vLLM CPU, bf16"

    def __init__(self, model_path):
        import vllm
        self.vllm = vllm
        self.version = vllm.__version__
        self.settings = {"threads": THREADS, "dtype": "bfloat16", "kv_cache_gb": 1}
        self.engine = vllm.LLM(
            model=model_path, dtype="bfloat16", max_model_len=2304, max_num_seqs=64, max_num_batched_tokens=2304,
            enable_prefix_caching=False, skip_tokenizer_init=True, disable_log_stats=True).llm_engine
        self.requests = 0

    def run(self, job):
        running, have = {}, {}
        job.start()
        while not job.done():
            for index, prompt, wanted in job.admit():
                params = self.vllm.SamplingParams(
                    temperature=0, max_tokens=wanted, ignore_eos=True, detokenize=False)
                name = str(self.requests)
                self.requests += 1
                self.engine.add_request(name, {"prompt_token_ids": prompt}, params)
                running[name], have[name] = index, 0
            for output in self.engine.step():
                total = len(output.outputs[0].token_ids)
                if total > have[output.request_id]:
                    job.token(running[output.request_id], total - have[output.request_id])
                    have[output.request_id] = total


if __name__ == "__main__":
    # vLLM starts helper processes that import this file.
    protocol.serve(lambda: Vllm(sys.argv[1]))
