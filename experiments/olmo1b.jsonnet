// OLMo 1B with the published values: the graph of tiny.jsonnet at full size.
local olmo = import 'lib/olmo.libsonnet';
local p = import 'lib/pipeline.libsonnet';
{
  steps: p.graph(olmo {
    title: 'OLMo 1B',
    // [paper], table 1; 1,176,764,416 parameters with the head tied to the embedding
    model: {
      d_model: 2048,
      n_layers: 16,
      n_heads: 16,
      mlp_hidden_size: 16384,
      vocab_size: p.padded(50280),  // 50,304
      max_sequence_length: 2048,
      tie_embeddings: true,
    },
    // [yaml]: 739,328 updates, cosine, 2,000 of warm-up; [paper] says linear, 5,000, for all sizes.
    pretrain+: {
      schedule: { type: 'cosine', peak_lr: 4e-4, warmup_steps: 2000, total_steps: 739328 },
    },
    // [yaml]: eight sequences a device, so 256 of them.
    launch: { type: 'slurm', nodes: 32, ranks: 8, microbatch: 8 },
    machine+: {
      training: {
        step_resources: { gpu_count: 8 },
        needs: { disk: '4TB' },  // 741 checkpoints in float32, the last two with both moments
      },
    },
  }),
}
