// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <lockstep/data/images/image_pipeline.h>

#include <utility>

#include "data/images/image_planes.h"

namespace lockstep::data {

void ImagePipeline::add_image_step(std::shared_ptr<const ImageTransform> step) {
  TORCH_CHECK(table_ == nullptr && plane_steps_.empty(),
              "ImagePipeline: a step on the image comes after ToFloat, Normalize or a step on the "
              "finished sample; it must come before");
  image_steps_.push_back(std::move(step));
}

void ImagePipeline::add_plane_step(std::shared_ptr<const PlaneTransform> step) {
  TORCH_CHECK(table_ != nullptr || !step->needs_floats(),
              "ImagePipeline: a step that needs floats, such as RandomErasing with noise, comes "
              "without ToFloat or Normalize before it");
  plane_steps_.push_back(std::move(step));
}

void ImagePipeline::set_conversion(const Normalize& conversion) {
  TORCH_CHECK(table_ == nullptr && plane_steps_.empty(),
              "ImagePipeline: ToFloat or Normalize comes after another one, or after a step on the "
              "finished sample; there can be one, and it must come before");
  auto table = std::make_shared<ValueTable>();
  for (std::size_t c = 0; c < table->size(); ++c) {
    const auto mean = static_cast<float>(conversion.mean()[c]);
    const auto deviation = static_cast<float>(conversion.std()[c]);
    for (std::size_t value = 0; value < (*table)[c].size(); ++value) {
      (*table)[c][value] = (static_cast<float>(value) / 255.0F - mean) / deviation;
    }
  }
  table_ = std::move(table);
}

at::ScalarType ImagePipeline::dtype() const noexcept {
  return table_ != nullptr ? at::kFloat : at::kByte;
}

Image ImagePipeline::decoded(const ImageDecoder& decoder, SampleRandom& random) const {
  if (image_steps_.empty()) return decoder.decode();
  return transformed(image_steps_.front()->decode(decoder, random), 1, random);
}

Image ImagePipeline::transformed(Image image, std::size_t first, SampleRandom& random) const {
  for (std::size_t i = first; i < image_steps_.size(); ++i) {
    image = image_steps_[i]->apply(std::move(image), random);
  }
  TORCH_CHECK(!image.is_empty(), "ImagePipeline: a step gave an image without pixels");
  return image;
}

void ImagePipeline::finish(const Image& image, SampleRandom& random,
                           std::span<std::byte> destination) const {
  ImagePlanes planes;
  planes.height = image.height();
  planes.width = image.width();
  const auto values = static_cast<std::size_t>(image.pixels() * Image::kChannels);
  const auto bytes = values * c10::elementSize(dtype());
  TORCH_CHECK(destination.size() == bytes, "ImagePipeline: the sample of ", Image::kChannels, " x ",
              image.height(), " x ", image.width(), ' ', dtype(), " has ", bytes,
              " bytes, the destination ", destination.size(),
              "; all samples of a batch must have one shape, so a resize or crop to a fixed size "
              "may be missing");
  if (table_ != nullptr) {
    planes.floats = reinterpret_cast<float*>(destination.data());
    write_planes(image, *static_cast<const ValueTable*>(table_.get()), planes.floats);
  } else {
    planes.bytes = reinterpret_cast<std::uint8_t*>(destination.data());
    write_planes(image, planes.bytes);
  }
  for (const auto& step : plane_steps_) step->apply(planes, random);
}

at::Tensor ImagePipeline::finished(const Image& image, SampleRandom& random) const {
  auto tensor = at::empty({Image::kChannels, image.height(), image.width()}, dtype());
  finish(image, random, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return tensor;
}

at::Tensor ImagePipeline::operator()(const ImageDecoder& decoder, SampleRandom& random) const {
  return finished(decoded(decoder, random), random);
}

at::Tensor ImagePipeline::operator()(Image image, SampleRandom& random) const {
  return finished(transformed(std::move(image), 0, random), random);
}

void ImagePipeline::write(const ImageDecoder& decoder, SampleRandom& random,
                          std::span<std::byte> destination) const {
  finish(decoded(decoder, random), random, destination);
}

void ImagePipeline::write(Image image, SampleRandom& random,
                          std::span<std::byte> destination) const {
  finish(transformed(std::move(image), 0, random), random, destination);
}

}  // namespace lockstep::data
