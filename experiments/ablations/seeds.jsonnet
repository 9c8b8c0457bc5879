// How much of a measure is the seed's: the tiny run three times, from pretraining on.
local p = import '../lib/pipeline.libsonnet';
local tiny = import '../lib/tiny.libsonnet';
{
  steps: p.graph(
    tiny { title: 'olmo-tango: the tiny run with three seeds' },
    seeds=[6198, 6199, 6200],
  ),
}
