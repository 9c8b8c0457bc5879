// OLMo 7B with the published values: the graph of tiny.jsonnet at full size.
local olmo = import 'lib/olmo.libsonnet';
local p = import 'lib/pipeline.libsonnet';
{
  steps: p.graph(olmo {
    title: 'OLMo 7B',
    // [paper], table 1; 6,888,095,744 parameters
    model: {
      d_model: 4096,
      n_layers: 32,
      n_heads: 32,
      mlp_hidden_size: 22016,
      vocab_size: p.padded(50280),  // 50,304
      max_sequence_length: 2048,
    },
    // [yaml]: 2e12 tokens, that is 476,838 updates; linear decay to a tenth; ten times the clipping
    // norm for the first 1,000. The original was stopped at 2.46e12 tokens [paper].
    pretrain+: {
      schedule: { type: 'linear', peak_lr: 3e-4, warmup_steps: 5000, total_steps: 476838 },
      clip_warmup_steps: 1000,
      clip_warmup_factor: 10,
    },
    // [yaml]: two sequences a device, so 1,024 of them; each layer compiled.
    launch: { type: 'slurm', nodes: 128, ranks: 8, microbatch: 2, compile: true },
    machine+: {
      training: {
        step_resources: { gpu_count: 8 },
        needs: { disk: '16TB' },  // 478 checkpoints in float32, the last two with both moments
      },
    },
  }),
}
