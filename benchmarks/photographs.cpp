// SPDX-License-Identifier: BSD-3-Clause
#include "photographs.h"

#include <jpeglib.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <memory>
#include <numbers>
#include <span>
#include <sstream>
#include <stdexcept>

namespace bench {
namespace {

constexpr std::int64_t kWidth = 500;
constexpr std::int64_t kHeight = 375;
constexpr std::int64_t kClasses = 10;

// Waves of all directions with random phases, each as high as its frequency is low.
torch::Tensor plane(const torch::Generator& generator) {
  const auto rows = torch::fft::fftfreq(kHeight, torch::kFloat).mul(kHeight).unsqueeze(1);
  const auto columns = torch::fft::rfftfreq(kWidth, torch::kFloat).mul(kWidth).unsqueeze(0);
  const auto frequency = (rows.square() + columns.square()).sqrt().clamp_min(1);
  const auto phase = torch::rand(frequency.sizes(), generator) * (2 * std::numbers::pi);
  const auto waves = torch::polar(1 / frequency, phase);
  const auto values = torch::fft::irfft2(waves, torch::IntArrayRef({kHeight, kWidth}));
  return values / values.std();
}

// Brightness mostly, and some colour. uint8 {H, W, 3}.
torch::Tensor photograph(std::uint64_t number) {
  auto generator = torch::make_generator<at::CPUGeneratorImpl>(number);
  const auto brightness = plane(generator);
  std::vector<torch::Tensor> channels;
  for (int channel = 0; channel < 3; ++channel) {
    channels.push_back(128 + 45 * brightness + 12 * plane(generator));
  }
  return torch::stack(channels, 2).round().clamp(0, 255).to(torch::kUInt8).contiguous();
}

// Quality and subsampling of the usual camera file; libjpeg's own error handler would exit, but
// nothing of this can fail on a valid image in memory.
std::vector<char> jpeg_of(const torch::Tensor& pixels, int quality) {
  jpeg_compress_struct encoder{};
  jpeg_error_mgr errors{};
  encoder.err = jpeg_std_error(&errors);
  jpeg_create_compress(&encoder);
  unsigned char* memory = nullptr;
  unsigned long bytes = 0;
  jpeg_mem_dest(&encoder, &memory, &bytes);
  encoder.image_width = static_cast<JDIMENSION>(pixels.size(1));
  encoder.image_height = static_cast<JDIMENSION>(pixels.size(0));
  encoder.input_components = 3;
  encoder.in_color_space = JCS_RGB;
  jpeg_set_defaults(&encoder);
  jpeg_set_quality(&encoder, quality, TRUE);
  jpeg_start_compress(&encoder, TRUE);
  auto* row = pixels.data_ptr<std::uint8_t>();
  for (; encoder.next_scanline < encoder.image_height; row += 3 * encoder.image_width) {
    jpeg_write_scanlines(&encoder, &row, 1);
  }
  jpeg_finish_compress(&encoder);
  jpeg_destroy_compress(&encoder);
  const std::unique_ptr<unsigned char, decltype(&std::free)> owner(memory, &std::free);
  return {memory, memory + bytes};
}

}  // namespace

void make_photographs(const std::string& root, std::int64_t count, int quality) {
  for (std::int64_t number = 0; number < count; ++number) {
    std::ostringstream path;
    path << root << "/class" << number % kClasses << '/';
    std::filesystem::create_directories(path.str());
    path << std::setw(6) << std::setfill('0') << number << ".jpg";
    const auto bytes = jpeg_of(photograph(static_cast<std::uint64_t>(number)), quality);
    std::ofstream file(path.str(), std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) throw std::runtime_error(path.str() + " cannot be written");
  }
}

}  // namespace bench
