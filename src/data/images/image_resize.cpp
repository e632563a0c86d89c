// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/image_operations.h>

#include "data/images/resize_axis.h"
#include "data/images/row_resizer.h"

namespace lockstep::data {
Image resize(const Image& image, const FractionalBox& box, std::int64_t height,
             std::int64_t width) {
  TORCH_CHECK(!image.is_empty(), "resize: the image has no pixels");
  const auto fits = [](double begin, double length, std::int64_t size) {
    return begin >= 0 && length > 0 && begin + length <= static_cast<double>(size);
  };
  TORCH_CHECK(fits(box.top, box.height, image.height()) && fits(box.left, box.width, image.width()),
              "resize: the box of ", box.height, " x ", box.width, " at ", box.top, ", ", box.left,
              " is empty or not inside the image of ", image.height(), " x ", image.width());
  Image result(height, width);
  const ResizeAxis columns(image.width(), box.left, box.width, width, ResizeAxis::For::Columns);
  const ResizeAxis rows(image.height(), box.top, box.height, height, ResizeAxis::For::Rows);
  RowResizer resizer(rows, columns, result);
  for (auto y = rows.begin(); y < rows.end(); ++y) resizer.push(image.row(y));
  return result;
}

Image resize(const Image& image, std::int64_t height, std::int64_t width) {
  if (!image.is_empty() && image.height() == height && image.width() == width) return image.clone();
  return resize(image,
                {0, 0, static_cast<double>(image.height()), static_cast<double>(image.width())},
                height, width);
}

}  // namespace lockstep::data
