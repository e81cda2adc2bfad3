# SPDX-License-Identifier: Apache-2.0
"""llama.cpp through llama-cpp-python's C interface, as its server batches: every decoding sequence's token and as many
prompt tokens as fit go into one llama_decode.

Usage: driver_llamacpp.py MODEL.gguf THREADS f16|q8_0     (q8_0 takes flash attention along, which it needs)
"""

import ctypes
import sys

import llama_cpp
import numpy

import protocol

BATCH_TOKENS = 2048  # the server's default; its micro-batch of 512 too


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, model_path, threads, kv_type):
        # Info lines off, or each context fills the log.
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.threads, self.kv_type = threads, kv_type
        self.name = f"llama.cpp, KV {kv_type}" + (" + flash attention" if kv_type == "q8_0" else "")
        self.version = "llama-cpp-python " + llama_cpp.__version__
        self.settings = {"threads": threads, "kv": kv_type, "n_batch": BATCH_TOKENS, "n_ubatch": 512}
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.context, self.shape = None, None

    def open_context(self, slots, tokens_per_slot):
        """A context is kept for as long as jobs of one shape come; its KV is cleared."""
        shape = (slots, -(-tokens_per_slot // 256) * 256)
        if shape != self.shape:
            if self.context:
                llama_cpp.llama_free(self.context)
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max = slots
            params.n_ctx = slots * shape[1]
            params.n_batch, params.n_ubatch = BATCH_TOKENS, 512
            params.n_threads = params.n_threads_batch = self.threads
            params.no_perf = True
            if self.kv_type == "q8_0":
                params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
                params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            else:
                params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            self.context, self.shape = llama_cpp.llama_init_from_model(self.model, params), shape
            if not self.context:
                sys.exit("llama.cpp refused the context")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def run(self, job):
        longest = max(len(prompt) + wanted for prompt, wanted in zip(job.prompts, job.max_tokens))
        self.open_context(job.concurrency, longest)
        memory = llama_cpp.llama_get_memory(self.context)
        free = list(range(job.concurrency))
        sequences = {}  # request -> [slot, tokens to feed, position of the next one]
        job.start()
        while not job.done():
            for index, prompt, _ in job.admit():
                sequences[index] = [free.pop(0), list(prompt), 0]
            outputs = self.fill(sequences)
            if llama_cpp.llama_decode(self.context, self.batch) != 0:
                sys.exit("llama_decode failed")
            for index, row in outputs:
                logits = llama_cpp.llama_get_logits_ith(self.context, row)
                token = int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(self.vocabulary,))))
                if job.token(index):
                    slot = sequences.pop(index)[0]
                    llama_cpp.llama_memory_seq_rm(memory, slot, -1, -1)
                    free.append(slot)
                else:
                    sequences[index][1] = [token]

    def fill(self, sequences):
        """Decoding sequences first, then prompts in order of arrival; returns (request, row with logits)."""
        batch, count, outputs = self.batch, 0, []
        for index, sequence in sorted(sequences.items(), key=lambda item: (len(item[1][1]) > 1, item[0])):
            slot, pending, position = sequence
            taken = pending[:BATCH_TOKENS - count]
            for offset, token in enumerate(taken):
                batch.token[count] = token
                batch.pos[count] = position + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = slot
                batch.logits[count] = 0
                count += 1
            sequence[1], sequence[2] = pending[len(taken):], position + len(taken)
            if taken and not sequence[1]:
                batch.logits[count - 1] = 1
                outputs.append((index, count - 1))
            if count == BATCH_TOKENS:
                break
        batch.n_tokens = count
        return outputs


if __name__ == "__main__":
    protocol.serve(lambda: LlamaCpp(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
