// Prints what transformers.js makes of a text, and the data types that it finds, as JSON.
//   node transformers.mjs MODULE FOLDER MODEL TASK DTYPES TEXT
// MODULE is the file of the installed package, DTYPES one name or an object by file, as JSON.
const [module, folder, model, task, dtypes, text] = process.argv.slice(2);
const { env, pipeline, ModelRegistry } = await import(module);
env.allowRemoteModels = false;
env.localModelPath = folder;
const found = await ModelRegistry.get_available_dtypes(model, { local_files_only: true });
const run = await pipeline(task, model, { dtype: JSON.parse(dtypes), local_files_only: true });
const made = task === 'feature-extraction' ? Array.from((await run(text, { pooling: 'mean' })).data)
  : (await run(text, { max_new_tokens: 8, do_sample: false }))[0].generated_text;
console.log(JSON.stringify({ found, made }));
