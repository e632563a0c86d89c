// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/image.h>
#include <lockstep/data/image_decoder.h>
#include <lockstep/data/sample_random.h>

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

  [[nodiscard]] virtual Image apply(Image image, SampleRandom& random) const = 0;

  /// What `apply` gives for the decoded image. A step that can do with less than the whole image
  /// may decode only that; it is asked when it comes first.
  [[nodiscard]] virtual Image decode(const ImageDecoder& decoder, SampleRandom& random) const;
};

/// The finished sample in memory, {3, height, width}: either floats or bytes, the other is null.
struct ImagePlanes {
  float* floats = nullptr;
  std::uint8_t* bytes = nullptr;
  std::int64_t height = 0;
  std::int64_t width = 0;
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

  virtual void apply(const ImagePlanes& planes, SampleRandom& random) const = 0;
  /// Whether it makes sense for floats only.
  [[nodiscard]] virtual bool needs_floats() const { return false; }
};

}  // namespace lockstep::data
