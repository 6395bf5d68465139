"""The peers of `decode.py`, in the environment that `peers.sh` makes; a line for a line.

    python decode_peers.py MODEL NAME THREADS

Each is in the fastest mode that its documentation has for one core: torch eager with a cache that
is made once, transformers' `generate`, llama.cpp with all sequences in one batch and flash
attention. A time is of one decode step, the choice of the likeliest tokens included, or of one
prefill. With one thread times are CPU seconds.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ANN204, D102, PLC0415
# Other types and versions than the project's: no checker reads this with the right libraries.

import json
import sys
import time
from pathlib import Path

CONTEXT = 1024


class Torch:
    """Llama in torch eager: what one would write by hand."""

    def __init__(self, model, threads):
        import torch
        from safetensors.torch import load_file

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = torch.__version__
        config = json.loads((model / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.shared, self.width = config["num_key_value_heads"], config["head_dim"]
        self.epsilon = config["rms_norm_eps"]
        loaded = load_file(model / "model.safetensors")
        self.weights = {name: one.float().contiguous() for name, one in loaded.items()}
        half = self.width // 2
        rates = config["rope_theta"] ** (-torch.arange(half) / half)
        angles = torch.cat([torch.arange(CONTEXT)[:, None] * rates] * 2, -1)
        self.cos, self.sin = angles.cos(), angles.sin()
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            for made, parts in (
                ("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                ("gate_up", ("mlp.gate_proj", "mlp.up_proj")),
            ):
                joined = torch.cat([self.weights[f"{name}.{part}.weight"] for part in parts])
                self.weights[f"{name}.{made}"] = joined

    def norm(self, x, gain):
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * self.torch.rsqrt(mean + self.epsilon) * self.weights[gain]

    def rotate(self, x, cos, sin):
        left, right = x.chunk(2, -1)
        return x * cos + self.torch.cat((-right, left), -1) * sin

    def forward(self, tokens, start, caches):
        torch, w, linear = self.torch, self.weights, self.torch.nn.functional.linear
        batch, count = tokens.shape
        end = start + count
        cos, sin = self.cos[start:end, None], self.sin[start:end, None]
        x = w["model.embed_tokens.weight"][tokens]
        mask = torch.full((count, end), float("-inf")).triu(start + 1) if count > 1 else None
        sizes = [self.heads, self.shared, self.shared]
        for layer, (keys, values) in enumerate(caches):
            name = f"model.layers.{layer}"
            h = linear(self.norm(x, f"{name}.input_layernorm.weight"), w[f"{name}.qkv"])
            q, k, v = h.view(batch, count, -1, self.width).split(sizes, 2)
            keys[:, :, start:end] = self.rotate(k, cos, sin).transpose(1, 2)
            values[:, :, start:end] = v.transpose(1, 2)
            q = self.rotate(q, cos, sin).transpose(1, 2)
            group = self.heads // self.shared
            q = q.reshape(batch, self.shared, group * count, self.width)
            scores = q @ keys[:, :, :end].transpose(2, 3) * self.width**-0.5
            if mask is not None:
                scores = scores.view(batch, self.shared, group, count, end) + mask
                scores = scores.view(batch, self.shared, group * count, end)
            mixed = scores.softmax(-1) @ values[:, :, :end]
            mixed = mixed.view(batch, self.heads, count, self.width).transpose(1, 2)
            mixed = mixed.reshape(batch, count, -1)
            x = x + linear(mixed, w[f"{name}.self_attn.o_proj.weight"])
            h = linear(
                self.norm(x, f"{name}.post_attention_layernorm.weight"), w[f"{name}.gate_up"]
            )
            gate, up = h.chunk(2, -1)
            inner = torch.nn.functional.silu(gate) * up
            x = x + linear(inner, w[f"{name}.mlp.down_proj.weight"])
        x = self.norm(x[:, -1], "model.norm.weight")
        return linear(x, w["model.embed_tokens.weight"]).argmax(-1, keepdim=True)

    def make_caches(self, batch):
        shape = (batch, self.shared, CONTEXT, self.width)
        return [(self.torch.zeros(shape), self.torch.zeros(shape)) for _ in range(self.layers)]

    def run(self, tokens, batch, steps, clock):
        caches = self.make_caches(batch)
        given = self.torch.tensor([tokens] * batch)
        begun = clock()
        chosen = self.forward(given, 0, caches)
        prefill = clock() - begun
        begun, said = clock(), [int(chosen[0])]
        for step in range(steps):
            chosen = self.forward(chosen, len(tokens) + step, caches)
            said.append(int(chosen[0]))
        return prefill, (clock() - begun) / max(1, steps), said


class Transformers:
    """Hugging Face's `generate`."""

    def __init__(self, model, threads):
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.version = torch, transformers.__version__
        kind = transformers.AutoModelForCausalLM
        self.model = kind.from_pretrained(model, torch_dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def run(self, tokens, batch, steps, clock):
        given = self.torch.tensor([tokens] * batch)
        mask = self.torch.ones_like(given)
        times = []
        for count in (1, steps + 1):
            begun = clock()
            said = self.model.generate(
                given, attention_mask=mask, max_new_tokens=count, min_new_tokens=count,
                do_sample=False,
            )  # fmt: skip
            times.append(clock() - begun)
        decode = (times[1] - times[0]) / max(1, steps)
        return times[0], decode, said[0, len(tokens) :].tolist()


class LlamaCpp:
    """llama.cpp through its C interface, all sequences in one batch."""

    def __init__(self, model, threads, kind):
        import llama_cpp

        self.api, self.version = llama_cpp, llama_cpp.__version__
        path = write_gguf(model, kind)
        llama_cpp.llama_log_set(_SILENT(llama_cpp), None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        # Some virtual machines show AMX and end a process that uses it; quantised weights would.
        params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.threads = threads
        self.vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]

    def run(self, tokens, batch, steps, clock):
        import numpy as np

        api = self.api
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = CONTEXT * batch, batch
        params.n_batch = params.n_ubatch = max(512, len(tokens))
        params.n_threads = params.n_threads_batch = self.threads
        context = api.llama_init_from_model(self.model, params)
        room = api.llama_batch_init(max(512, len(tokens)), 0, 1)

        def decode(entries):
            room.n_tokens = len(entries)
            for n, (token, place, sequence, wanted) in enumerate(entries):
                room.token[n], room.pos[n], room.n_seq_id[n] = token, place, 1
                room.seq_id[n][0], room.logits[n] = sequence, wanted
            if api.llama_decode(context, room):
                raise SystemExit("llama.cpp does not decode")
            rows = sum(entry[-1] for entry in entries)
            logits = api.llama_get_logits(context)
            shape = (rows, self.vocabulary)
            return np.ctypeslib.as_array(logits, shape=shape).argmax(-1)

        last = len(tokens) - 1
        chosen = []
        begun = clock()
        for sequence in range(batch):
            entries = [(t, n, sequence, int(n == last)) for n, t in enumerate(tokens)]
            chosen.append(int(decode(entries)[0]))
        prefill = clock() - begun
        begun, said = clock(), [chosen[0]]
        for step in range(steps):
            place = len(tokens) + step
            chosen = decode([(int(t), place, n, 1) for n, t in enumerate(chosen)])
            said.append(int(chosen[0]))
        decode_time = (clock() - begun) / max(1, steps)
        api.llama_batch_free(room)
        api.llama_free(context)
        return prefill, decode_time, said


def _SILENT(api):  # noqa: N802
    global _kept  # noqa: PLW0603  # C calls it for as long as the process lives
    _kept = api.llama_log_callback(lambda *_: None)
    return _kept


def write_gguf(model, kind):
    """Write the checkpoint as llama.cpp reads it; return the file."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    path = model / f"model-{kind}.gguf"
    config = json.loads((model / "config.json").read_text())
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(shared)
    out.add_key_length(config["head_dim"])
    out.add_value_length(config["head_dim"])
    out.add_rope_dimension_count(config["head_dim"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_tokenizer_model("no_vocab")
    form = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}[kind]
    form = getattr(gguf.GGMLQuantizationType, form)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name).float().numpy()
            for part, count in (("q_proj", heads), ("k_proj", shared)):
                if part in name:  # llama.cpp turns neighbours, Hugging Face halves
                    split = tensor.reshape(count, 2, -1, tensor.shape[-1])
                    tensor = split.swapaxes(1, 2).reshape(tensor.shape)
            to = names.get_name(name, try_suffixes=(".weight",))
            wide = tensor.ndim == 1 or kind == "f32"
            used = gguf.GGMLQuantizationType.F32 if wide else form
            data = gguf.quants.quantize(np.ascontiguousarray(tensor), used)
            out.add_tensor(to, data, raw_dtype=used)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def main():
    model, name, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if name == "torch":
        peer = Torch(model, threads)
    elif name == "transformers":
        peer = Transformers(model, threads)
    else:
        peer = LlamaCpp(model, threads, name.split()[-1])
    clock = time.process_time if threads == 1 else time.perf_counter
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["kind"] == "version":
            answer = peer.version
        elif asked["kind"] == "prefill":
            answer = peer.run(asked["tokens"], 1, 0, clock)[0]
        elif asked["kind"] == "decode":
            answer = peer.run(asked["tokens"], asked["size"], asked["steps"], clock)[1]
        else:
            answer = peer.run(asked["tokens"], 1, asked["steps"], clock)[2]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
