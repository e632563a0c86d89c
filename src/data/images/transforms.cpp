// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/transforms.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace lockstep::data {
namespace {

// Python's round(): halves go to the even number.
std::int64_t rounded(double value) {
  return static_cast<std::int64_t>(std::nearbyint(value));
}

void check_size(const char* what, std::int64_t height, std::int64_t width) {
  TORCH_CHECK(height >= 1 && width >= 1 && height <= Image::kMaxPixels / width, what,
              ": the size is ", height, " x ", width,
              " (height x width); both must be at least 1 and there may be at most ",
              Image::kMaxPixels, " pixels");
}

void check_probability(const char* what, double probability) {
  TORCH_CHECK(probability >= 0 && probability <= 1, what, ": the probability is ", probability,
              "; it must be from 0 to 1");
}

void check_range(const char* what, const std::array<double, 2>& range, double most) {
  TORCH_CHECK(range[0] > 0 && range[0] <= range[1] && range[1] <= most, what, " is from ", range[0],
              " to ", range[1],
              "; the first must be above 0 and not above the second, the second at most ", most);
}

constexpr double kMostRatio = 1e6;

double draw_ratio(const std::array<double, 2>& range, SampleRandom& random) {
  return std::exp(random.uniform(std::log(range[0]), std::log(range[1])));
}

FractionalBox fractional(const ImageBox& box) {
  return {static_cast<double>(box.top), static_cast<double>(box.left),
          static_cast<double>(box.height), static_cast<double>(box.width)};
}

}  // namespace

ImageTransform::~ImageTransform() = default;
PlaneTransform::~PlaneTransform() = default;

Image ImageTransform::decode(const ImageDecoder& decoder, SampleRandom& random) const {
  return apply(decoder.decode(), random);
}

Resize::Resize(std::int64_t shorter_side) : height_(shorter_side) {
  check_size("Resize", shorter_side, shorter_side);
}

Resize::Resize(std::int64_t height, std::int64_t width) : height_(height), width_(width) {
  check_size("Resize", height, width);
}

ImageSize Resize::size_for(std::int64_t height, std::int64_t width) const {
  if (width_ > 0) return {height_, width_};
  const auto longer = [this](std::int64_t long_side, std::int64_t short_side) {
    return static_cast<std::int64_t>(static_cast<double>(height_ * long_side) /
                                     static_cast<double>(short_side));
  };
  if (height <= width) return {height_, longer(width, height)};
  return {longer(height, width), height_};
}

Image Resize::apply(Image image, SampleRandom&) const {
  const auto size = size_for(image.height(), image.width());
  if (size.height == image.height() && size.width == image.width()) return image;
  return resize(image, size.height, size.width);
}

CenterCrop::CenterCrop(ImageSize size) : size_(size) {
  check_size("CenterCrop", size.height, size.width);
}

Image CenterCrop::apply(Image image, SampleRandom&) const {
  // Where the crop is larger, the image is padded first, the odd pixel right and below.
  const auto begin = [](std::int64_t size, std::int64_t wanted) {
    return size < wanted ? -((wanted - size) / 2)
                         : rounded(static_cast<double>(size - wanted) / 2.0);
  };
  return crop(image, {begin(image.height(), size_.height), begin(image.width(), size_.width),
                      size_.height, size_.width});
}

RandomResizedCrop::RandomResizedCrop(ImageSize size, const RandomResizedCropOptions& options)
    : size_(size), options_(options) {
  check_size("RandomResizedCrop", size.height, size.width);
  check_range("RandomResizedCropOptions: scale", options.scale(), 1);
  check_range("RandomResizedCropOptions: ratio", options.ratio(), kMostRatio);
}

ImageBox RandomResizedCrop::draw_box(std::int64_t height, std::int64_t width,
                                     SampleRandom& random) const {
  const auto area = static_cast<double>(height * width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double part = area * random.uniform(options_.scale()[0], options_.scale()[1]);
    const double ratio = draw_ratio(options_.ratio(), random);
    const auto box_width = rounded(std::sqrt(part * ratio));
    const auto box_height = rounded(std::sqrt(part / ratio));
    if (box_width < 1 || box_width > width || box_height < 1 || box_height > height) continue;
    const auto top = random.below(height - box_height + 1);
    return {top, random.below(width - box_width + 1), box_height, box_width};
  }
  // The middle, as much as the ratio lets be.
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  auto box_height = height;
  auto box_width = width;
  if (ratio < options_.ratio()[0]) {
    box_height = std::clamp<std::int64_t>(rounded(static_cast<double>(width) / options_.ratio()[0]),
                                          1, height);
  } else if (ratio > options_.ratio()[1]) {
    box_width = std::clamp<std::int64_t>(rounded(static_cast<double>(height) * options_.ratio()[1]),
                                         1, width);
  }
  return {(height - box_height) / 2, (width - box_width) / 2, box_height, box_width};
}

Image RandomResizedCrop::apply(Image image, SampleRandom& random) const {
  const auto box = draw_box(image.height(), image.width(), random);
  return resize(image, fractional(box), size_.height, size_.width);
}

Image RandomResizedCrop::decode(const ImageDecoder& decoder, SampleRandom& random) const {
  const auto box = draw_box(decoder.header().height, decoder.header().width, random);
  return decoder.decode_resized(box, size_.height, size_.width, options_.scaled_decode());
}

RandomCrop::RandomCrop(ImageSize size, const RandomCropOptions& options)
    : size_(size), options_(options) {
  check_size("RandomCrop", size.height, size.width);
  const auto& padding = options.padding();
  TORCH_CHECK(std::min({padding.left, padding.top, padding.right, padding.bottom}) >= 0,
              "RandomCropOptions: padding is ", padding.left, ", ", padding.top, ", ",
              padding.right, ", ", padding.bottom,
              " (left, top, right, bottom); none may be negative");
}

Image RandomCrop::apply(Image image, SampleRandom& random) const {
  auto padding = options_.padding();
  if (options_.pad_if_needed()) {
    const auto lacks_rows =
        std::max<std::int64_t>(size_.height - image.height() - padding.top - padding.bottom, 0);
    const auto lacks_columns =
        std::max<std::int64_t>(size_.width - image.width() - padding.left - padding.right, 0);
    padding.top += lacks_rows;
    padding.bottom += lacks_rows;
    padding.left += lacks_columns;
    padding.right += lacks_columns;
  }
  if (padding.left + padding.top + padding.right + padding.bottom > 0) {
    image = pad(image, padding, options_.fill(), options_.padding_mode());
  }
  TORCH_CHECK(size_.height <= image.height() && size_.width <= image.width(),
              "RandomCrop: the crop of ", size_.height, " x ", size_.width,
              " is larger than the padded image of ", image.height(), " x ", image.width(),
              "; pad_if_needed(true) would add what lacks");
  if (size_.height == image.height() && size_.width == image.width()) return image;
  const auto top = random.below(image.height() - size_.height + 1);
  const auto left = random.below(image.width() - size_.width + 1);
  return crop(image, {top, left, size_.height, size_.width});
}

RandomHorizontalFlip::RandomHorizontalFlip(double probability) : probability_(probability) {
  check_probability("RandomHorizontalFlip", probability);
}

Image RandomHorizontalFlip::apply(Image image, SampleRandom& random) const {
  if (random.bernoulli(probability_)) horizontal_flip(image);
  return image;
}

RandomVerticalFlip::RandomVerticalFlip(double probability) : probability_(probability) {
  check_probability("RandomVerticalFlip", probability);
}

Image RandomVerticalFlip::apply(Image image, SampleRandom& random) const {
  if (random.bernoulli(probability_)) vertical_flip(image);
  return image;
}

ColorJitter::ColorJitter(const ColorJitterOptions& options) : options_(options) {
  const auto check = [](const char* what, double amount, double most) {
    TORCH_CHECK(amount >= 0 && amount <= most, "ColorJitterOptions: ", what, " is ", amount,
                "; it must be from 0 to ", most);
  };
  constexpr double kMost = 1e6;
  check("brightness", options.brightness(), kMost);
  check("contrast", options.contrast(), kMost);
  check("saturation", options.saturation(), kMost);
  check("hue", options.hue(), 0.5);
}

Image ColorJitter::apply(Image image, SampleRandom& random) const {
  std::array<int, 4> order{0, 1, 2, 3};
  for (std::size_t left = order.size(); left > 1; --left) {
    const auto chosen = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(left)));
    std::swap(order[left - 1], order[chosen]);
  }
  const auto factor = [&](double amount) {
    return random.uniform(std::max(0.0, 1.0 - amount), 1.0 + amount);
  };
  for (const int step : order) {
    if (step == 0 && options_.brightness() > 0) {
      adjust_brightness(image, factor(options_.brightness()));
    } else if (step == 1 && options_.contrast() > 0) {
      adjust_contrast(image, factor(options_.contrast()));
    } else if (step == 2 && options_.saturation() > 0) {
      adjust_saturation(image, factor(options_.saturation()));
    } else if (step == 3 && options_.hue() > 0) {
      adjust_hue(image, random.uniform(-options_.hue(), options_.hue()));
    }
  }
  return image;
}

Normalize::Normalize(const Channels& mean, const Channels& std) : mean_(mean), std_(std) {
  for (std::size_t c = 0; c < mean.size(); ++c) {
    TORCH_CHECK(std::isfinite(mean[c]), "Normalize: the mean of channel ", c, " is ", mean[c],
                "; it must be finite");
    TORCH_CHECK(std::isfinite(std[c]) && std[c] > 0, "Normalize: the std of channel ", c, " is ",
                std[c], "; it must be finite and greater than 0");
  }
}

RandomErasing::RandomErasing(const RandomErasingOptions& options) : options_(options) {
  check_probability("RandomErasing", options.probability());
  check_range("RandomErasingOptions: scale", options.scale(), 1);
  check_range("RandomErasingOptions: ratio", options.ratio(), kMostRatio);
  for (const double value : options.value()) {
    TORCH_CHECK(std::isfinite(value), "RandomErasingOptions: a value is ", value,
                "; it must be finite");
  }
}

std::optional<ImageBox> RandomErasing::draw_box(std::int64_t height, std::int64_t width,
                                                SampleRandom& random) const {
  const auto area = static_cast<double>(height * width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double part = area * random.uniform(options_.scale()[0], options_.scale()[1]);
    const double ratio = draw_ratio(options_.ratio(), random);
    const auto box_height = rounded(std::sqrt(part * ratio));
    const auto box_width = rounded(std::sqrt(part / ratio));
    if (box_height >= height || box_width >= width) continue;
    const auto top = random.below(height - box_height + 1);
    return ImageBox{top, random.below(width - box_width + 1), box_height, box_width};
  }
  return std::nullopt;
}

void RandomErasing::apply(const ImagePlanes& planes, SampleRandom& random) const {
  if (!random.bernoulli(options_.probability())) return;
  const auto box = draw_box(planes.height, planes.width, random);
  if (!box) return;
  for (std::int64_t c = 0; c < Image::kChannels; ++c) {
    const double value = options_.value()[static_cast<std::size_t>(c)];
    for (std::int64_t y = box->top; y < box->top + box->height; ++y) {
      const auto start = (c * planes.height + y) * planes.width + box->left;
      if (planes.bytes != nullptr) {
        std::fill_n(planes.bytes + start, box->width,
                    static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0)));
      } else if (options_.noise()) {
        std::generate_n(planes.floats + start, box->width,
                        [&] { return static_cast<float>(random.normal()); });
      } else {
        std::fill_n(planes.floats + start, box->width, static_cast<float>(value));
      }
    }
  }
}

}  // namespace lockstep::data
