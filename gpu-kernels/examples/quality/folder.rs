//! A model's folder as transformers reads it: `config.json` and `model.safetensors` in f32.

use crate::Error;
use manta_gpu_kernels::{Layout, ModelConfig};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

/// Writes the model's parameters, which lie as `layout` says.
pub(crate) fn write(folder: &Path, model: &ModelConfig, layout: &Layout, parameters: &[f32]) -> Result<(), Error> {
    std::fs::create_dir_all(folder)?;
    let mut config = serde_json::to_value(model)?;
    config["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
    config["model_type"] = "llama".into();
    config["torch_dtype"] = "float32".into();
    std::fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let views = layout.tensors().iter().map(|tensor| {
        let range = tensor.range();
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[4 * range.start..4 * range.end])?;
        Ok((&tensor.name, view))
    });
    let views = views.collect::<Result<Vec<_>, Error>>()?;
    // Transformers refuses files that do not say whose tensors they hold.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize_to_file(views, Some(about), &folder.join("model.safetensors"))?)
}

/// Reads the parameters as `layout` has them.
pub(crate) fn read(folder: &Path, layout: &Layout) -> Result<Vec<f32>, Error> {
    let bytes = std::fs::read(folder.join("model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let mut parameters = vec![0.0; layout.len()];
    for tensor in layout.tensors() {
        let view = tensors.tensor(&tensor.name)?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            let (dtype, shape) = (view.dtype(), view.shape());
            return Err(format!("{}: {dtype:?} {shape:?}, expected F32 {:?}", tensor.name, tensor.shape).into());
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        parameters[tensor.range()].iter_mut().zip(values).for_each(|(parameter, value)| *parameter = value);
    }
    Ok(parameters)
}
