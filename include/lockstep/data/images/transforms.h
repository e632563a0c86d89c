// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/images/image_operations.h>
#include <lockstep/data/images/image_transform.h>
#include <torch/arg.h>

#include <array>
#include <cstdint>
#include <optional>

/// @file
/// The steps of an `ImagePipeline`. Each draws as the class of the same name in
/// `torchvision.transforms.v2` does: the same distributions, other numbers, since they come from
/// the sample's own `SampleRandom`. What it does with the drawn numbers is in `image_operations.h`.
///
/// Thread-safety: const members may be called from several threads.
/// Throws: constructors throw `c10::Error` naming an argument that is out of range.

namespace lockstep::data {

/// Rows and columns of an image.
struct ImageSize {
  std::int64_t height = 0;  ///< rows
  std::int64_t width = 0;   ///< columns

  /// A square.
  ImageSize(std::int64_t both) : height(both), width(both) {}  // NOLINT: 224 is a size
  /// A rectangle.
  ImageSize(std::int64_t height_, std::int64_t width_) : height(height_), width(width_) {}
};

/// Resizes to a size, or so that the shorter side gets a length and the ratio of the sides stays.
class LOCKSTEP_API Resize : public ImageTransform {
 public:
  /// The shorter side gets this length.
  explicit Resize(std::int64_t shorter_side);
  /// The image gets this size; the ratio of its sides may change.
  Resize(std::int64_t height, std::int64_t width);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

  /// The size that an image of the given size gets.
  [[nodiscard]] ImageSize size_for(std::int64_t height, std::int64_t width) const;

 private:
  std::int64_t height_;
  std::int64_t width_ = 0;  // 0: height_ is the shorter side
};

/// Keeps the middle of the image. A smaller image gets black sides.
class LOCKSTEP_API CenterCrop : public ImageTransform {
 public:
  /// The part has this size.
  explicit CenterCrop(ImageSize size);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ImageSize size_;
};

/// What a `RandomResizedCrop` is told.
struct LOCKSTEP_API RandomResizedCropOptions {
  /// The least and the most.
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

/// Keeps a random part and resizes it. As the first step it decodes no more of the image than that
/// part.
class LOCKSTEP_API RandomResizedCrop : public ImageTransform {
 public:
  /// The part is resized to this size.
  explicit RandomResizedCrop(ImageSize size, const RandomResizedCropOptions& options = {});
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;
  [[nodiscard]] Image decode(const ImageDecoder& decoder, SampleRandom& random) const override;

  /// A part, drawn at random, of an image of this size.
  [[nodiscard]] ImageBox draw_box(std::int64_t height, std::int64_t width,
                                  SampleRandom& random) const;

 private:
  ImageSize size_;
  RandomResizedCropOptions options_;
};

/// What a `RandomCrop` is told.
struct LOCKSTEP_API RandomCropOptions {
  /// Red, green and blue.
  using Colour = std::array<std::uint8_t, 3>;

  /// Pixels that are added at the sides before a part is chosen.
  TORCH_ARG(Padding, padding) = {};
  /// Adds what a smaller image lacks, at both sides; else it is an error.
  TORCH_ARG(bool, pad_if_needed) = false;
  /// The colour for `PaddingMode::Constant`.
  TORCH_ARG(Colour, fill) = {0, 0, 0};
  /// How what is added is filled.
  TORCH_ARG(PaddingMode, padding_mode) = PaddingMode::Constant;
};

/// Keeps a random part of the given size.
class LOCKSTEP_API RandomCrop : public ImageTransform {
 public:
  /// The part has this size.
  explicit RandomCrop(ImageSize size, const RandomCropOptions& options = {});
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ImageSize size_;
  RandomCropOptions options_;
};

/// Swaps left and right, or does nothing.
class LOCKSTEP_API RandomHorizontalFlip : public ImageTransform {
 public:
  /// The image is mirrored with this probability.
  explicit RandomHorizontalFlip(double probability = 0.5);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  double probability_;
};

/// Swaps top and bottom, or does nothing.
class LOCKSTEP_API RandomVerticalFlip : public ImageTransform {
 public:
  /// The image is mirrored with this probability.
  explicit RandomVerticalFlip(double probability = 0.5);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  double probability_;
};

/// What a `ColorJitter` is told.
struct LOCKSTEP_API ColorJitterOptions {
  /// The factor is drawn from [max(0, 1 - brightness), 1 + brightness]; 0 leaves it alone.
  TORCH_ARG(double, brightness) = 0;
  /// The same for `adjust_contrast`.
  TORCH_ARG(double, contrast) = 0;
  /// The same for `adjust_saturation`.
  TORCH_ARG(double, saturation) = 0;
  /// The turn is drawn from [-hue, hue]; at most 0.5.
  TORCH_ARG(double, hue) = 0;
};

/// Changes brightness, contrast, saturation and hue, in a random order.
class LOCKSTEP_API ColorJitter : public ImageTransform {
 public:
  /// The options say by how much; by default nothing changes.
  explicit ColorJitter(const ColorJitterOptions& options);
  [[nodiscard]] Image apply(Image image, SampleRandom& random) const override;

 private:
  ColorJitterOptions options_;
};

/// Makes floats of uint8: (value / 255 - mean) / std of each channel, with the very bits of
/// torchvision's `ToTensor` and `Normalize`. It ends the steps on the image.
class LOCKSTEP_API Normalize {
 public:
  /// A value for each of red, green and blue.
  using Channels = std::array<double, 3>;
  /// `mean` and `std` are those of pixels in [0, 1]; each `std` is greater than 0.
  Normalize(const Channels& mean, const Channels& std);

  /// What is subtracted.
  [[nodiscard]] const Channels& mean() const noexcept { return mean_; }
  /// What it is divided by.
  [[nodiscard]] const Channels& std() const noexcept { return std_; }

 private:
  Channels mean_;
  Channels std_;
};

/// Makes floats in [0, 1] of uint8. It ends the steps on the image.
class LOCKSTEP_API ToFloat : public Normalize {
 public:
  /// Mean 0, standard deviation 1.
  ToFloat() : Normalize({0, 0, 0}, {1, 1, 1}) {}
};

/// What a `RandomErasing` is told.
struct LOCKSTEP_API RandomErasingOptions {
  /// The least and the most.
  using Range = std::array<double, 2>;
  /// A value for each of red, green and blue.
  using Channels = std::array<double, 3>;

  /// How likely it is that anything happens.
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

/// Gives a random part of the finished sample one colour, or noise.
class LOCKSTEP_API RandomErasing : public PlaneTransform {
 public:
  /// The options say how large the part is and what it becomes.
  explicit RandomErasing(const RandomErasingOptions& options = {});
  void apply(const ImagePlanes& planes, SampleRandom& random) const override;
  [[nodiscard]] bool needs_floats() const override { return options_.noise(); }

  /// A part, drawn at random, of a sample of this size; nothing where no drawn part fits.
  [[nodiscard]] std::optional<ImageBox> draw_box(std::int64_t height, std::int64_t width,
                                                 SampleRandom& random) const;

 private:
  RandomErasingOptions options_;
};

}  // namespace lockstep::data
