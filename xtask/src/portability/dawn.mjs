// Runs cases on Dawn: node dawn.mjs PACKAGE. A line on stdin is a case, a line on stdout what its outputs hold. The case is
// described where it is written: tests/portability/elsewhere.rs.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { create, globals } = await import(pathToFileURL(process.argv[2]));
Object.assign(globalThis, globals);
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');

// Kept where the collector finds it: without it nothing that was begun ends.
globalThis.gpu = create([]);
const adapter = await globalThis.gpu.requestAdapter();
if (!adapter) throw new Error('Dawn has no adapter');
const hasSubgroups = adapter.features.has('subgroups');
// Kernels for subgroups have wide variants. That the others keep to the default limits is seen where they are translated.
const wide = ['maxComputeInvocationsPerWorkgroup', 'maxComputeWorkgroupSizeX', 'maxComputeWorkgroupStorageSize'];
const requiredLimits = Object.fromEntries(wide.map((limit) => [limit, adapter.limits[limit]]));
const device = await adapter.requestDevice({ requiredFeatures: hasSubgroups ? ['subgroups'] : [], requiredLimits });
const { description, device: name, vendor, architecture } = adapter.info;
say({ adapter: `Dawn on ${description || name || vendor}`, driver: `npm webgpu, ${vendor} ${architecture}`, backend: 'dawn' });

const pipelines = new Map();
async function pipelineOf(c) {
  const key = `${c.kernel} ${c.variant}`;
  if (!pipelines.has(key)) {
    // naga has no such directive; Dawn wants it.
    const code = (c.subgroups ? 'enable subgroups;\n' : '') + c.wgsl;
    const module = device.createShaderModule({ code });
    const messages = (await module.getCompilationInfo()).messages.filter((m) => m.type === 'error');
    if (messages.length > 0) {
      pipelines.set(key, { refused: messages.map((m) => `line ${m.lineNum}: ${m.message}`).join('; ') });
    } else {
      const entries = [{ binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: 'uniform' } }];
      c.writes.forEach((writes, i) => {
        const type = writes ? 'storage' : 'read-only-storage';
        entries.push({ binding: i + 1, visibility: GPUShaderStage.COMPUTE, buffer: { type } });
      });
      const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
      const compute = { module, entryPoint: c.kernel, constants: c.constants };
      const made = device.createComputePipelineAsync({ layout, compute });
      pipelines.set(key, await made.then((pipeline) => ({ pipeline }), (error) => ({ refused: error.message })));
    }
  }
  return pipelines.get(key);
}

function buffer(words, usage) {
  const made = device.createBuffer({ size: Math.max(4, words.byteLength), usage, mappedAtCreation: true });
  new words.constructor(made.getMappedRange(0, words.byteLength)).set(words);
  made.unmap();
  return made;
}

async function run({ case: c, buffers: contents }) {
  if (c.subgroups && !hasSubgroups) return 'the adapter has no subgroups';
  if (c.constants.WORKGROUP > device.limits[wide[0]]) return 'the adapter has no workgroups of so many invocations';
  const { pipeline, refused } = await pipelineOf(c);
  if (refused) return refused;
  device.pushErrorScope('validation');
  const params = buffer(Uint8Array.from(c.params), GPUBufferUsage.UNIFORM);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const buffers = contents.map((words) => buffer(Uint32Array.from(words), usage));
  const entries = [params, ...buffers].map((made, binding) => ({ binding, resource: { buffer: made } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(...c.grid);
  pass.end();
  const back = c.outputs.map((binding) => {
    const from = buffers[binding - 1];
    const to = device.createBuffer({ size: from.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    encoder.copyBufferToBuffer(from, 0, to, 0, from.size);
    return to;
  });
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error) return error.message;
  const outputs = [];
  for (const to of back) {
    await to.mapAsync(GPUMapMode.READ);
    outputs.push(Array.from(new Uint32Array(to.getMappedRange())));
  }
  [params, ...buffers, ...back].forEach((made) => made.destroy());
  return outputs;
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) say(await run(JSON.parse(line)));
device.destroy();
process.exit(0);
