// SPDX-License-Identifier: BSD-3-Clause
// The formulas are torchvision's for uint8 tensors, in float like there, so that results differ by
// what its order of operations rounds differently.
#include <c10/util/Exception.h>
#include <lockstep/data/images/image_operations.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace lockstep::data {
namespace {

constexpr float kLargest = 255.0F;

void check(const Image& image, const char* what, double factor, double low, double high) {
  TORCH_CHECK(!image.is_empty(), what, ": the image has no pixels");
  TORCH_CHECK(factor >= low && factor <= high && std::isfinite(factor), what, ": the factor is ",
              factor, "; it must be ", low, " or more",
              std::isfinite(high) ? " and at most " + std::to_string(high) : std::string());
}

std::uint8_t to_byte(float value) {
  return static_cast<std::uint8_t>(std::clamp(value, 0.0F, kLargest));
}

float grey(const std::uint8_t* pixel) {
  return std::floor(static_cast<float>(pixel[0]) * 0.2989F + static_cast<float>(pixel[1]) * 0.587F +
                    static_cast<float>(pixel[2]) * 0.114F);
}

template <class Change>
void for_each_pixel(Image& image, const Change& change) {
  auto* pixel = image.row(0);
  const auto* const end = pixel + image.pixels() * Image::kBytesPerPixel;
  for (; pixel < end; pixel += Image::kBytesPerPixel) change(pixel);
}

void look_up(Image& image, const std::array<std::uint8_t, 256>& table) {
  for_each_pixel(image, [&](std::uint8_t* pixel) {
    for (int c = 0; c < 3; ++c) pixel[c] = table[pixel[c]];
  });
}

struct Hsv {
  float hue, saturation, value;
};

Hsv to_hsv(float red, float green, float blue) {
  const float most = std::max({red, green, blue});
  const float least = std::min({red, green, blue});
  if (most == least) return {0, 0, most};
  const float range = most - least;
  const float r = (most - red) / range;
  const float g = (most - green) / range;
  const float b = (most - blue) / range;
  const float sixths = most == red ? b - g : most == green ? r + 2.0F - b : g + 4.0F - r;
  return {std::fmod(sixths * (1.0F / 6.0F) + 1.0F, 1.0F), range / most, most};
}

std::array<float, 3> to_rgb(const Hsv& colour) {
  const float sixths = colour.hue * 6.0F;
  const float sector = std::floor(sixths);
  const float part = colour.saturation * (sixths - sector);
  const float v = colour.value;
  const auto inside = [](float x) { return std::clamp(x, 0.0F, 1.0F); };
  const float p = inside((1.0F - colour.saturation) * v);
  const float q = inside((1.0F - part) * v);
  const float t = inside((part + (1.0F - colour.saturation)) * v);
  switch (static_cast<int>(sector) % 6) {
    case 0:
      return {v, t, p};
    case 1:
      return {q, v, p};
    case 2:
      return {p, v, t};
    case 3:
      return {p, q, v};
    case 4:
      return {t, p, v};
    default:
      return {v, p, q};
  }
}

}  // namespace

void adjust_brightness(Image& image, double factor) {
  check(image, "adjust_brightness", factor, 0, HUGE_VAL);
  std::array<std::uint8_t, 256> table{};
  for (std::size_t value = 0; value < table.size(); ++value) {
    table[value] = to_byte(static_cast<float>(value) * static_cast<float>(factor));
  }
  look_up(image, table);
}

void adjust_contrast(Image& image, double factor) {
  check(image, "adjust_contrast", factor, 0, HUGE_VAL);
  std::int64_t sum = 0;
  for_each_pixel(image,
                 [&](const std::uint8_t* pixel) { sum += static_cast<std::int64_t>(grey(pixel)); });
  const auto mean =
      static_cast<float>(static_cast<double>(sum) / static_cast<double>(image.pixels()));
  const auto own = static_cast<float>(factor);
  const float rest = mean * static_cast<float>(1.0 - factor);
  std::array<std::uint8_t, 256> table{};
  for (std::size_t value = 0; value < table.size(); ++value) {
    table[value] = to_byte(static_cast<float>(value) * own + rest);
  }
  look_up(image, table);
}

void adjust_saturation(Image& image, double factor) {
  check(image, "adjust_saturation", factor, 0, HUGE_VAL);
  const auto own = static_cast<float>(factor);
  const auto other = static_cast<float>(1.0 - factor);
  for_each_pixel(image, [&](std::uint8_t* pixel) {
    const float rest = grey(pixel) * other;
    for (int c = 0; c < 3; ++c) pixel[c] = to_byte(static_cast<float>(pixel[c]) * own + rest);
  });
}

void adjust_hue(Image& image, double factor) {
  check(image, "adjust_hue", factor, -0.5, 0.5);
  const auto turn = static_cast<float>(factor);
  for_each_pixel(image, [&](std::uint8_t* pixel) {
    auto colour =
        to_hsv(static_cast<float>(pixel[0]) / kLargest, static_cast<float>(pixel[1]) / kLargest,
               static_cast<float>(pixel[2]) / kLargest);
    colour.hue += turn;
    colour.hue -= std::floor(colour.hue);
    const auto rgb = to_rgb(colour);
    for (std::size_t c = 0; c < rgb.size(); ++c) {
      pixel[c] = static_cast<std::uint8_t>(rgb[c] * (kLargest + 1.0F - 1e-3F));
    }
  });
}

}  // namespace lockstep::data
