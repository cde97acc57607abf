#include "decoder/weights.hpp"

#include "ssm/ssm.hpp"

namespace refgss::decoding {

matrix read_matrix(const refgss_array* a, const refgss_array* scale, const std::string& name,
                   int64_t rows, int64_t columns, bool transposed) {
    return std::make_shared<weight_matrix>(
        matrix_source::of(a, scale, name.c_str(), rows, columns, transposed));
}

std::vector<float> read_vector(const refgss_array* a, const std::string& name, int64_t width) {
    auto v = shaped<const float, 1>(a, name.c_str(), width);
    std::vector<float> values(padded_width(width), 0.0f);
    for (int64_t i = 0; i < width; ++i) values[i] = *v.at(i);
    return values;
}

std::vector<float> read_optional(const refgss_array* a, const std::string& name, int64_t width) {
    return a ? read_vector(a, name, width) : std::vector<float>(padded_width(width), 0.0f);
}

int64_t axis_of(const refgss_array* a, const std::string& name, int rank, int axis) {
    check_weights(a, name, rank);
    return a->shape[axis];
}

}  // namespace refgss::decoding
