# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI's continuous batching pipeline on the CPU, reading the GGUF itself.

Usage: driver_openvino.py MODEL.gguf THREADS default|f32     (the inference precision hint)
"""

import sys

import numpy
import openvino
import openvino_genai

import protocol


class OpenVino:
    def __init__(self, model_path, threads, precision):
        self.name = "OpenVINO GenAI" + (", f32" if precision == "f32" else "")
        self.version = openvino_genai.__version__
        self.settings = {"threads": threads, "precision": precision, "cache_size_gb": 1}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": threads}
        if precision == "f32":
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(model_path, scheduler, "CPU", properties)
        self.requests = 0

    def run(self, job):
        running = {}
        job.start()
        while not job.done():
            for index, prompt, wanted in job.admit():
                config = openvino_genai.GenerationConfig()
                config.max_new_tokens = wanted
                config.ignore_eos = True
                config.do_sample = False
                tokens = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
                running[index] = self.pipeline.add_request(self.requests, tokens, config)
                self.requests += 1
            self.pipeline.step()
            for index, handle in list(running.items()):
                while handle.can_read():
                    count = sum(len(output.generated_ids) for output in handle.read().values())
                    if count and job.token(index, count):
                        del running[index]
                        break


if __name__ == "__main__":
    protocol.serve(lambda: OpenVino(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
