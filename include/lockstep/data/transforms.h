// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/image_operations.h>
#include <lockstep/data/image_transform.h>
#include <torch/arg.h>

#include <array>
#include <cstdint>
#include <optional>

/// The steps of an `ImagePipeline`. Each draws as the class of the same name in
/// `torchvision.transforms.v2` does: the same distributions, other numbers, since they come from
/// the sample's own `SampleRandom`. What it does with the drawn numbers is in `image_operations.h`.
///
/// Thread-safety: const members may be called from several threads. Throws: constructors throw
/// `c10::Error` naming an argument that is out of range.
namespace lockstep::data {

struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;

  ImageSize(std::int64_t both) : height(both), width(both) {}  // NOLINT: 224 is a size
  ImageSize(std::int64_t height_, std::int64_t width_) : height(height_), width(width_) {}
};

/// To a size, or so that the shorter side gets a length and the longer one keeps its ratio.
class LOCKSTEP_API Resize : public ImageTransform {
 public:
  explicit Resize(std::int64_t shorter_side);
  Resize(std::int64_t height, std::int64_t width);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

  [[nodiscard]] ImageSize size_for(std::int64_t height, std::int64_t width) const;

 private:
  std::int64_t height_;
  std::int64_t width_ = 0;  // 0: height_ is the shorter side
};

/// The middle. A smaller image gets black sides.
class LOCKSTEP_API CenterCrop : public ImageTransform {
 public:
  explicit CenterCrop(ImageSize size);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ImageSize size_;
};

struct LOCKSTEP_API RandomResizedCropOptions {
  using Range = std::array<double, 2>;

  /// The part of the image's area that is kept, drawn between these two.
  TORCH_ARG(Range, scale) = {0.08, 1.0};
  /// Width by height of the part, drawn between these two on a logarithmic scale.
  TORCH_ARG(Range, ratio) = {3.0 / 4.0, 4.0 / 3.0};
  /// Lets a JPEG file be decoded at 1/2, 1/4 or 1/8 of its size when the part is still at least as
  /// large as the result. Much faster for large images, and close to, but not, the pixels that
  /// resizing the whole image gives.
  TORCH_ARG(bool, scaled_decode) = true;
};

/// A random part, resized. As the first step it decodes no more of the image than this part.
class LOCKSTEP_API RandomResizedCrop : public ImageTransform {
 public:
  explicit RandomResizedCrop(ImageSize size, const RandomResizedCropOptions& options = {});
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;
  [[nodiscard]] Image decode(const ImageDecoder& decoder, SampleRandom& random) const override;

  /// The part of an image of this size.
  [[nodiscard]] ImageBox draw_box(std::int64_t height, std::int64_t width,
                                  SampleRandom& random) const;

 private:
  ImageSize size_;
  RandomResizedCropOptions options_;
};

struct LOCKSTEP_API RandomCropOptions {
  using Colour = std::array<std::uint8_t, 3>;

  /// Pixels that are added at the sides before a part is chosen.
  TORCH_ARG(Padding, padding) = {};
  /// Adds what a smaller image lacks, at both sides; else it is an error.
  TORCH_ARG(bool, pad_if_needed) = false;
  /// For `PaddingMode::Constant`.
  TORCH_ARG(Colour, fill) = {0, 0, 0};
  TORCH_ARG(PaddingMode, padding_mode) = PaddingMode::Constant;
};

/// A random part of the given size.
class LOCKSTEP_API RandomCrop : public ImageTransform {
 public:
  explicit RandomCrop(ImageSize size, const RandomCropOptions& options = {});
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ImageSize size_;
  RandomCropOptions options_;
};

class LOCKSTEP_API RandomHorizontalFlip : public ImageTransform {
 public:
  explicit RandomHorizontalFlip(double probability = 0.5);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  double probability_;
};

class LOCKSTEP_API RandomVerticalFlip : public ImageTransform {
 public:
  explicit RandomVerticalFlip(double probability = 0.5);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  double probability_;
};

struct LOCKSTEP_API ColorJitterOptions {
  /// The factor is drawn from [max(0, 1 - brightness), 1 + brightness]; 0 leaves it alone.
  TORCH_ARG(double, brightness) = 0;
  TORCH_ARG(double, contrast) = 0;
  TORCH_ARG(double, saturation) = 0;
  /// Drawn from [-hue, hue]; at most 0.5.
  TORCH_ARG(double, hue) = 0;
};

/// Brightness, contrast, saturation and hue, in a random order.
class LOCKSTEP_API ColorJitter : public ImageTransform {
 public:
  explicit ColorJitter(const ColorJitterOptions& options);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ColorJitterOptions options_;
};

/// From uint8 to float: (value / 255 - mean) / std of each channel, with the very bits of
/// torchvision's `ToTensor` and `Normalize`. Ends the steps on the image.
class LOCKSTEP_API Normalize {
 public:
  using Channels = std::array<double, 3>;
  Normalize(const Channels& mean, const Channels& std);

  [[nodiscard]] const Channels& mean() const noexcept { return mean_; }
  [[nodiscard]] const Channels& std() const noexcept { return std_; }

 private:
  Channels mean_;
  Channels std_;
};

/// From uint8 to float in [0, 1]. Ends the steps on the image.
class LOCKSTEP_API ToFloat : public Normalize {
 public:
  ToFloat() : Normalize({0, 0, 0}, {1, 1, 1}) {}
};

struct LOCKSTEP_API RandomErasingOptions {
  using Range = std::array<double, 2>;
  using Channels = std::array<double, 3>;

  TORCH_ARG(double, probability) = 0.5;
  /// The part of the area, drawn between these two.
  TORCH_ARG(Range, scale) = {0.02, 0.33};
  /// Height by width, drawn between these two on a logarithmic scale.
  TORCH_ARG(Range, ratio) = {0.3, 3.3};
  /// What the pixels become; in the units of the finished sample.
  TORCH_ARG(Channels, value) = {0, 0, 0};
  /// Normally distributed noise instead of `value`; for floats only.
  TORCH_ARG(bool, noise) = false;
};

/// A random part of the finished sample becomes one colour or noise.
class LOCKSTEP_API RandomErasing : public PlaneTransform {
 public:
  explicit RandomErasing(const RandomErasingOptions& options = {});
  void apply(const ImagePlanes& planes, SampleRandom& random) const override;
  [[nodiscard]] bool needs_floats() const override { return options_.noise(); }

  /// Nothing where no drawn part fits.
  [[nodiscard]] std::optional<ImageBox> draw_box(std::int64_t height, std::int64_t width,
                                                 SampleRandom& random) const;

 private:
  RandomErasingOptions options_;
};

}  // namespace lockstep::data
