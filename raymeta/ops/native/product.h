// Products of matrices small enough for the cache.
#pragma once
#include "lanes.h"

namespace raymeta {

// Columns of vectors of a product, and the rows that it keeps in registers with so many of them
#if defined(__AVX512F__)
constexpr int COLUMNS = 4;
constexpr int rows_of(int columns) { return columns == 4 ? 6 : columns == 1 ? 16 : 8; }
#else
constexpr int COLUMNS = 2;
constexpr int rows_of(int columns) { return columns == 2 ? 6 : 12; }
#endif

// c[r][n] (+)= sum over k of a[r * row + k * step] * b[k][n], for R rows, without the first `done`, and C vectors
template <class T, int R, int C>
void product(long depth, const T* a, long row, long step, const T* b, T* c, long width, bool add, long done) {
    constexpr long L = Lanes<T>::count;
    const Whole at;
    V<T> acc[R][C] = {};
    for (long k = 0; k < depth; k++, a += step, b += width) {
        V<T> other[C];
        for (int j = 0; j < C; j++) other[j] = at.load(b + j * L);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            V<T> one = a[r * row] - V<T>{};
#pragma GCC unroll 4
            for (int j = 0; j < C; j++) acc[r][j] += one * other[j];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        if (r < done) continue;
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) {
            T* to = c + r * width + j * L;  // a sum of sums, whose error is smaller than that of one long one
            at.store(to, add ? at.load(to) + acc[r][j] : acc[r][j]);
        }
    }
}

// Blocks of R rows; the last one computes again what it shares with the one before
template <class T, int C, int R = rows_of(C)>
void columns(long count, long depth, const T* a, long row, long step, const T* b, T* c, long width, bool add) {
    if constexpr (R > 1)
        if (count < R) return columns<T, C, R / 2>(count, depth, a, row, step, b, c, width, add);
    for (long r = 0; r < count; r += R) {
        long first = r + R <= count ? r : count - R;
        product<T, R, C>(depth, a + first * row, row, step, b, c + first * width, width, add, r - first);
    }
}

// c (+)= a b: a of `count` rows and `depth` columns at any strides, b of `depth` rows; b's and c's rows are of `width`,
// which is a multiple of a vector
template <class T>
void multiply(long count, long depth, const T* a, long row, long step, const T* b, T* c, long width, bool add) {
    constexpr long L = Lanes<T>::count;
    for (long n = 0; n < width;) {
        long left = (width - n) / L;
        if (left >= COLUMNS) {
            columns<T, COLUMNS>(count, depth, a, row, step, b + n, c + n, width, add), n += COLUMNS * L;
            continue;
        }
        if constexpr (COLUMNS > 3) {
            if (left == 3) return columns<T, 3>(count, depth, a, row, step, b + n, c + n, width, add);
            if (left == 2) return columns<T, 2>(count, depth, a, row, step, b + n, c + n, width, add);
        }
        return columns<T, 1>(count, depth, a, row, step, b + n, c + n, width, add);
    }
}

// [a][b] to [b][a]
template <class T> void transpose(long a, long b, const T* from, T* to) {
    constexpr long S = 8;
    for (long i = 0; i < a; i += S)
        for (long j = 0; j < b; j += S)
            for (long y = j; y < (j + S < b ? j + S : b); y++)
                for (long x = i; x < (i + S < a ? i + S : a); x++) to[y * a + x] = from[x * b + y];
}

}  // namespace raymeta
