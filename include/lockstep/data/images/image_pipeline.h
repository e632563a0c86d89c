// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/data/images/image_transform.h>
#include <lockstep/data/images/transforms.h>

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::data {

/// What a pipeline is made of: a step on the image, `Normalize` or `ToFloat`, or a step on the
/// finished sample.
template <class T>
concept PipelineStep = std::derived_from<T, ImageTransform> || std::derived_from<T, Normalize> ||
    std::derived_from<T, PlaneTransform>;

/// Steps from an encoded image to a sample, in the order given:
///
///     ImagePipeline(RandomResizedCrop(224), RandomHorizontalFlip(),
///                   Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}), RandomErasing())
///
/// Steps on the image come first, then at most one of `ToFloat` and `Normalize`, then steps on the
/// finished sample. Without `ToFloat` or `Normalize` the sample is uint8; without any step it is
/// the image.
///
/// Shapes: {3, H, W}, float32 or uint8, contiguous.
/// Thread-safety: const members may be called from several threads.
/// Owns: its steps; copies share them.
/// Throws: `c10::Error` for steps in another order, and what the steps throw.
class LOCKSTEP_API ImagePipeline {
 public:
  /// A pipeline without steps: a sample is the image.
  ImagePipeline() = default;
  /// Adds all steps.
  /// Throws: as `add`.
  template <PipelineStep... Steps>
  requires(sizeof...(Steps) > 0) explicit ImagePipeline(Steps... steps) {
    (add(std::move(steps)), ...);
  }

  /// Adds a step behind the others.
  /// Throws: `c10::Error` for a step that cannot come there.
  template <PipelineStep Step>
  ImagePipeline& add(Step step) {
    if constexpr (std::derived_from<Step, ImageTransform>) {
      add_image_step(std::make_shared<const Step>(std::move(step)));
    } else if constexpr (std::derived_from<Step, Normalize>) {
      set_conversion(step);
    } else {
      add_plane_step(std::make_shared<const Step>(std::move(step)));
    }
    return *this;
  }

  /// The sample of an encoded image. Where the first step can do with a part, only that is decoded.
  [[nodiscard]] at::Tensor operator()(const ImageDecoder& decoder, SampleRandom& random) const;
  /// The sample of a decoded image.
  [[nodiscard]] at::Tensor operator()(Image image, SampleRandom& random) const;

  /// Writes the sample where it belongs, without a tensor in between.
  /// Throws: what the steps throw, and `c10::Error` when `destination` has another size than the
  /// sample, with both sizes.
  void write(const ImageDecoder& decoder, SampleRandom& random,
             std::span<std::byte> destination) const;
  /// The same for a decoded image.
  /// Throws: as the function above.
  void write(Image image, SampleRandom& random, std::span<std::byte> destination) const;

  /// The dtype of the samples: Float with `ToFloat` or `Normalize`, else Byte.
  [[nodiscard]] at::ScalarType dtype() const noexcept;

 private:
  void add_image_step(std::shared_ptr<const ImageTransform> step);
  void add_plane_step(std::shared_ptr<const PlaneTransform> step);
  void set_conversion(const Normalize& conversion);

  [[nodiscard]] Image decoded(const ImageDecoder& decoder, SampleRandom& random) const;
  [[nodiscard]] Image transformed(Image image, std::size_t first, SampleRandom& random) const;
  [[nodiscard]] at::Tensor finished(const Image& image, SampleRandom& random) const;
  void finish(const Image& image, SampleRandom& random, std::span<std::byte> destination) const;

  std::vector<std::shared_ptr<const ImageTransform>> image_steps_;
  std::shared_ptr<const void> table_;  // what each uint8 value becomes; null: it stays
  std::vector<std::shared_ptr<const PlaneTransform>> plane_steps_;
};

}  // namespace lockstep::data
