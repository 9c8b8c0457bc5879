// The tiny run without the published benchmarks: nothing is fetched.
{ steps: (import 'lib/pipeline.libsonnet').graph(import 'lib/tiny.libsonnet') }
