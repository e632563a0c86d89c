// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_decoder.h>
#include <lockstep/data/samplers/sample_random.h>

#include <cstdint>

namespace lockstep::data {

/// A step of an `ImagePipeline` on the image itself, while it is uint8. Derive from it for steps of
/// your own.
///
/// Thread-safety: several threads may call `apply` at the same time. All that is random must come
/// from `random`, or a sample depends on which worker it goes to.
class LOCKSTEP_API ImageTransform {
 public:
  ImageTransform() = default;
  ImageTransform(const ImageTransform&) = default;
  ImageTransform& operator=(const ImageTransform&) = default;
  virtual ~ImageTransform();

  /// The image after this step.
  /// Throws: `c10::Error` for an image that it cannot take.
  [[nodiscard]] virtual Image apply(Image image, SampleRandom& random) const = 0;

  /// What `apply` gives for the decoded image. A step that can do with less than the whole image
  /// may decode only that; it is asked when it comes first.
  [[nodiscard]] virtual Image decode(const ImageDecoder& decoder, SampleRandom& random) const;
};

/// The finished sample in memory, {3, height, width}: either floats or bytes, the other is null.
struct ImagePlanes {
  float* floats = nullptr;        ///< the first value, channel by channel; null: see `bytes`
  std::uint8_t* bytes = nullptr;  ///< likewise of uint8
  std::int64_t height = 0;        ///< rows of each channel
  std::int64_t width = 0;         ///< columns of each channel
};

/// A step of an `ImagePipeline` on the finished sample, in place.
///
/// Thread-safety: as `ImageTransform`.
class LOCKSTEP_API PlaneTransform {
 public:
  PlaneTransform() = default;
  PlaneTransform(const PlaneTransform&) = default;
  PlaneTransform& operator=(const PlaneTransform&) = default;
  virtual ~PlaneTransform();

  /// Changes the sample in place.
  virtual void apply(const ImagePlanes& planes, SampleRandom& random) const = 0;
  /// Whether it makes sense for floats only.
  [[nodiscard]] virtual bool needs_floats() const { return false; }
};

}  // namespace lockstep::data
